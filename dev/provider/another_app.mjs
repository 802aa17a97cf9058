// "Another app": a second app of the same tenant, so that one can sign in there with a click and sign out there, and see what
// becomes of the app under test.  It keeps its sessions in memory.

import { randomBytes } from 'node:crypto';

import { escape, page } from './pages.mjs';
import { cookie, redirect, send, sendHtml } from './wire.mjs';

export const CLIENT_ID = 'another-app';

export function anotherApp({ addresses }) {
  const home = addresses.anotherApp;
  const cookieName = `another-app-${new URL(home).port}`;
  const callback = `${home}/callback`;
  const secret = randomBytes(24).toString('base64url');
  const sessions = new Map(); // cookie value → claims of the ID token and the ID token itself
  const flows = new Map(); // state → nonce

  async function signIn(res) {
    const state = randomBytes(16).toString('base64url');
    const nonce = randomBytes(16).toString('base64url');
    flows.set(state, nonce);
    const url = new URL(`${addresses.browser}${addresses.base}/authorize`);
    url.search = new URLSearchParams({
      client_id: CLIENT_ID, redirect_uri: callback, response_type: 'code', scope: 'openid profile', state, nonce,
    });
    redirect(res, url.href);
  }

  async function signedIn(url, res) {
    const state = url.searchParams.get('state');
    const nonce = flows.get(state);
    flows.delete(state);
    if (!nonce || !url.searchParams.has('code')) return sendHtml(res, 400, page('Another app', '<p>The sign-in did not work.</p>'));
    // Over loopback, from the process that made the token: its signature proves nothing more here.
    const answer = await fetch(`${addresses.browser}${addresses.base}/token`, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'authorization_code', code: url.searchParams.get('code'), redirect_uri: callback, client_id: CLIENT_ID, client_secret: secret,
      }),
    });
    const { id_token: idToken } = await answer.json();
    const claims = JSON.parse(Buffer.from(idToken.split('.')[1], 'base64url').toString('utf8'));
    if (claims.nonce !== nonce) return sendHtml(res, 400, page('Another app', '<p>The sign-in did not work.</p>'));
    const id = randomBytes(24).toString('base64url');
    sessions.set(id, { claims, idToken });
    return redirect(res, home, { 'Set-Cookie': `${cookieName}=${id}; Path=/another-app; HttpOnly; SameSite=Lax` });
  }

  function signOut(req, res) {
    const id = cookie(req, cookieName);
    const session = sessions.get(id);
    sessions.delete(id);
    const url = new URL(`${addresses.browser}${addresses.base}/logout`);
    url.search = new URLSearchParams({
      client_id: CLIENT_ID,
      post_logout_redirect_uri: home,
      ...(session && { id_token_hint: session.idToken }),
    });
    redirect(res, url.href, { 'Set-Cookie': `${cookieName}=; Path=/another-app; Max-Age=0` });
  }

  function endedElsewhere(url, res) {
    for (const [id, { claims }] of sessions) if (claims.sid === url.searchParams.get('sid')) sessions.delete(id);
    send(res, 200, 'signed out');
  }

  function start(req, res) {
    const session = sessions.get(cookie(req, cookieName));
    sendHtml(res, 200, page('Another app', session
      ? `<p>Signed in as <strong>${escape(session.claims.name)}</strong>.</p>
<p><a href="${home}/sign-out">Sign out</a> here, and the identity provider signs you out everywhere.</p>`
      : `<p>Not signed in. <a href="${home}/sign-in">Sign in</a></p>`));
  }

  return {
    client: {
      client_id: CLIENT_ID,
      client_name: 'Another app',
      client_secret: secret,
      redirect_uris: [callback],
      post_logout_redirect_uris: [home],
      frontchannel_logout_uri: `${home}/frontchannel-logout`,
    },
    handler: async (req, res) => {
      const url = new URL(req.url, addresses.browser);
      switch (url.pathname) {
        case '/another-app/sign-in': return signIn(res);
        case '/another-app/callback': return signedIn(url, res);
        case '/another-app/sign-out': return signOut(req, res);
        case '/another-app/frontchannel-logout': return endedElsewhere(url, res);
        case '/another-app': return start(req, res);
        default: return send(res, 404, 'There is nothing here.');
      }
    },
  };
}
