// The provider's pages: plain HTML that works without a style sheet; only two of them carry a script, and say what to do without.

export function escape(text) {
  return String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

export function page(title, content) {
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<link rel="icon" href="data:,">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:3rem auto;padding:0 1rem}button,input{font:inherit;padding:.4rem .8rem}form{margin:.5rem 0}</style>
</head>
<body>
<main>
<h1>${escape(title)}</h1>
${content}
</main>
</body>
</html>
`;
}

/** Who signs in: a button for each known user, and a name of one's own choice.  `hint` goes first. */
export function loginPage({ action, users, hint, app }) {
  const buttons = users.map((user) => `<form method="post" action="${escape(action)}">
<button name="user" value="${escape(user.login)}">${escape(user.name)} (${escape(user.username)})</button>
</form>`).join('\n');
  return page('Sign in', `<p>to go on to <strong>${escape(app)}</strong>. This is the identity provider of your own machine: there are no passwords.</p>
${buttons}
<form method="post" action="${escape(action)}">
<label>Somebody else: <input name="name" value="${escape(hint ?? '')}" required maxlength="200" autocomplete="off"></label>
<button>Sign in</button>
</form>
<form method="post" action="${escape(action)}"><button name="cancel" value="yes">Cancel</button></form>`);
}

export function consentPage({ action, name, app, scopes }) {
  return page('Permissions requested', `<p><strong>${escape(app)}</strong> asks ${escape(name)} for:</p>
<ul>${scopes.map((scope) => `<li>${escape(scope)}</li>`).join('')}</ul>
<form method="post" action="${escape(action)}"><button name="consent" value="yes">Accept</button></form>
<form method="post" action="${escape(action)}"><button name="cancel" value="yes">Cancel</button></form>`);
}

/** Asked where no hint says who signs out, as Entra's account picker is. */
export function signOutPage({ name, username, form }) {
  return page('Pick an account', `<p>Which account do you want to sign out of?</p>
${form}
<p><button form="op.logoutForm" name="logout" value="yes">${escape(name)} (${escape(username)})</button></p>
<p>To stay signed in, close this page.</p>`);
}

/** Goes on by itself, because the question was answered by the hint that came with it. */
export function signingOutPage({ form }) {
  return page('Signing out', `${form}
<p><button form="op.logoutForm" name="logout" value="yes">Sign out</button></p>
<script>document.querySelector('button').click();</script>`);
}

/**
 * Front-channel logout: one hidden frame for each app, then on to `target` when all have loaded or after three seconds
 * (OpenID Connect Front-Channel Logout 1.0, section 3).
 */
export function frontchannelPage({ frames, target }) {
  const html = frames.map((url) => `<iframe hidden title="sign-out" src="${escape(url)}"></iframe>`).join('\n');
  return page('Signing out', `<p>You are being signed out of your apps. <a id="continue" href="${escape(target)}">Continue</a></p>
<script>
let waiting = ${frames.length};
const go = () => { waiting = NaN; location.replace(document.getElementById('continue').href); };
document.addEventListener('load', (event) => { if (event.target.tagName === 'IFRAME' && --waiting === 0) go(); }, true);
setTimeout(() => { if (waiting > 0) go(); }, 3000);
</script>
${html}`);
}

export function signedOutPage() {
  return page('You signed out', '<p>You can close this page.</p>');
}

export function errorPage({ error, error_description: description }) {
  return page('Sign-in failed', `<p>${escape(error)}: ${escape(description ?? '')}</p>`);
}
