// The routes of the login pages: oidc-provider sends the browser to /login/{uid} when it wants to see the user.

import { consentPage, errorPage, loginPage } from './pages.mjs';
import { form, redirect, sendHtml } from './wire.mjs';

/** The result of the page's form, as oidc-provider's interactions expect it. */
function decided(answers, users) {
  if (answers.has('cancel')) return { error: 'access_denied', error_description: 'AADSTS65004: the user declined' };
  if (answers.has('consent')) return { consent: {} };
  const login = answers.get('user') ?? answers.get('name')?.trim();
  if (!login) return undefined;
  return { login: { accountId: users.withLogin(login).sub }, select_account: {} };
}

export function login({ users }, provider) {
  return async (req, res) => {
    let interaction;
    try {
      interaction = await provider.interactionDetails(req, res);
    } catch (error) {
      return sendHtml(res, 400, errorPage({ error: error.error ?? 'invalid_request', error_description: error.error_description }));
    }
    const { params, prompt, session, uid } = interaction;
    const action = `/login/${uid}`;
    if (req.method === 'POST') {
      const result = decided(await form(req), users);
      if (result) return redirect(res, await provider.interactionResult(req, res, result));
    }
    const client = await provider.Client.find(params.client_id);
    const app = client.clientName ?? client.clientId;
    if (prompt.name === 'consent') {
      const user = users.withSub(session.accountId);
      return sendHtml(res, 200, consentPage({ action, name: user.name, app, scopes: params.scope.split(' ') }));
    }
    const hinted = users.hinted(params.login_hint);
    const known = users.shown;
    return sendHtml(res, 200, loginPage({
      action,
      app,
      users: hinted ? [hinted, ...known.filter((user) => user !== hinted)] : known,
      hint: hinted ? '' : params.login_hint,
    }));
  };
}
