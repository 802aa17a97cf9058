// What tests may ask of the provider.  Not for browsers: whatever a page could send is refused.
//
//   POST /test/switch        {name: value, …}              see switches.mjs; answers all of them
//   POST /test/reset         {}                            switches and counters as at the start
//   POST /test/clients       {client_id, redirect_uris, frontchannel_logout_uri?, backchannel_logout_uri?, …}
//   POST /test/users         {login, name?, sub?, oid?, tid?, uid?, utid?, username?, login_hint?, claims?}
//   POST /test/rotate-keys   {}
//   POST /test/logout-token  {client_id, sub?, sid?, claims?, header?, key?}   → {"logout_token": …}
//   GET  /test/counters
//   GET  /test/issued        [every code, access token, refresh token and sid]
//   GET  /test/sessions      [{sub, login, uid, clients: {client_id: sid}}]

import { randomUUID } from 'node:crypto';

import { body, sendJson } from './wire.mjs';

export function control({ addresses, keys, storage, switches, users }, tenant) {
  const routes = {
    'POST /test/switch': (values) => {
      switches.set(values);
      return switches.values;
    },
    'POST /test/reset': () => {
      switches.reset();
      return switches.values;
    },
    'POST /test/clients': async (metadata) => {
      tenant.register(metadata);
      try {
        await tenant.provider.Client.find(metadata.client_id); // checks the metadata
      } catch (error) {
        storage.remove('Client', metadata.client_id);
        throw new Error(error.error_description ?? error.message, { cause: error });
      }
      return { client_id: metadata.client_id };
    },
    'POST /test/users': (user) => users.define(user),
    'POST /test/rotate-keys': async () => {
      await keys.rotate();
      return { kid: keys.current.kid };
    },
    'POST /test/logout-token': ({ client_id: audience, sub, sid, claims = {}, header = {}, key }) => {
      const now = Math.floor(Date.now() / 1000);
      return {
        logout_token: keys.mint({
          header: { typ: 'logout+jwt', ...header },
          claims: {
            iss: addresses.issuer,
            aud: audience,
            iat: now,
            exp: now + 120,
            jti: randomUUID(),
            events: { 'http://schemas.openid.net/event/backchannel-logout': {} },
            ...(sub !== undefined && { sub }),
            ...(sid !== undefined && { sid }),
            ...claims,
          },
          key,
        }),
      };
    },
    'GET /test/counters': () => switches.counters,
    'GET /test/issued': () => [...storage.issued],
    'GET /test/sessions': () => storage.all('Session').filter(({ accountId }) => accountId).map(({ accountId, uid, authorizations }) => ({
      sub: accountId,
      login: users.withSub(accountId)?.login,
      uid,
      clients: Object.fromEntries(Object.entries(authorizations ?? {}).map(([client, { sid }]) => [client, sid])),
    })),
  };
  return async (req, res) => {
    if (req.headers.origin || req.headers['sec-fetch-site']) return sendJson(res, 403, { error: 'not for browsers' });
    const route = routes[`${req.method} ${req.url}`];
    if (!route) return sendJson(res, 404, { error: 'no such route' });
    try {
      return sendJson(res, 200, await route(req.method === 'POST' ? JSON.parse(await body(req) || '{}') : {}));
    } catch (error) {
      return sendJson(res, 400, { error: error.message });
    }
  };
}
