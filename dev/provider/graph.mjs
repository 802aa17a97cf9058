// A very small Microsoft Graph: GET /graph/v1.0/me for whoever the bearer token was issued to.

import { sendJson } from './wire.mjs';

const CHALLENGE = { access_token: { nbf: { essential: true, value: '1' } } };

function refuse(res, status, code, message, header) {
  sendJson(res, status, { error: { code, message } }, header ? { 'WWW-Authenticate': header } : {});
}

export function graph({ switches, users }, provider) {
  return async (req, res) => {
    if (new URL(req.url, 'http://graph').pathname !== '/graph/v1.0/me' || req.method !== 'GET') {
      return refuse(res, 404, 'ResourceNotFound', 'Resource not found.');
    }
    switches.counters.graph += 1;
    if (await switches.fail(switches.graph, res, { error: { code: 'BadRequest', message: 'refused' } })) return undefined;
    const [scheme, value] = (req.headers.authorization ?? '').split(' ');
    const token = scheme.toLowerCase() === 'bearer' && value ? await provider.AccessToken.find(value.split('.')[0]) : undefined;
    if (!token?.isValid) {
      return refuse(res, 401, 'InvalidAuthenticationToken', 'Access token is missing, expired or unknown.', 'Bearer error="invalid_token"');
    }
    if (switches.graph === 'challenge' && !switches.steppedUp.has(token.grantId)) {
      const claims = Buffer.from(JSON.stringify(CHALLENGE)).toString('base64');
      return refuse(
        res, 401, 'InvalidAuthenticationToken', 'Continuous access evaluation resulted in a challenge.',
        `Bearer realm="", authorization_uri="", error="insufficient_claims", claims="${claims}"`,
      );
    }
    if (!token.scopes.has('User.Read')) return refuse(res, 403, 'Authorization_RequestDenied', 'Insufficient privileges.');
    const user = users.withSub(token.accountId);
    return sendJson(res, 200, switches.padded(switches.graph, {
      id: user.oid,
      displayName: user.name,
      userPrincipalName: user.username,
      mail: user.username,
      givenName: user.name.split(' ')[0],
      surname: user.name.split(' ').slice(1).join(' ') || null,
      jobTitle: null,
    }));
  };
}
