// The OpenID Provider: oidc-provider under /{tenant}/v2.0, with what a tenant of Entra ID has and oidc-provider has not:
// client_info, session_state, oid, tid and login_hint claims, front-channel logout, and metadata that sends browsers to http.

import { randomBytes } from 'node:crypto';

import Provider, { interactionPolicy } from 'oidc-provider';

import { CLIENT_ID as ANOTHER_APP } from './another_app.mjs';
import { errorPage, frontchannelPage, signedOutPage, signingOutPage, signOutPage } from './pages.mjs';

const { Check, Prompt, base: basePolicy } = interactionPolicy;
const SCOPES = ['openid', 'profile', 'email', 'offline_access', 'User.Read', 'Mail.Read', 'Calendars.Read'];
const CLAIMS = ['sub', 'name', 'preferred_username', 'oid', 'tid', 'login_hint', 'ver'];
const DAYS = 24 * 60 * 60;

function decodedPayload(jwt) {
  return JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url').toString('utf8'));
}

/** Response modes and grants are wrapped where oidc-provider registers them: the one place where all of them pass. */
function tenantClass(world) {
  return class Tenant extends Provider {
    registerResponseMode(name, handler) {
      super.registerResponseMode(name, (ctx, redirectUri, payload) => handler(ctx, redirectUri, {
        ...payload,
        ...(payload.code && sessionState(world, ctx.oidc)),
      }));
    }

    registerGrantType(name, handler, ...rest) {
      super.registerGrantType(name, (ctx) => answerToken(world, name, ctx, handler), ...rest);
    }
  };
}

function sessionState({ switches }, { client, session }) {
  switch (switches.session_state) {
    case 'sid': return { session_state: session.sidFor(client.clientId) };
    case 'other': return { session_state: `state-of-${session.uid}` };
    default: return {};
  }
}

/** The token endpoint, as the switches want it: counts, fails, and shapes oidc-provider's answer like Entra's. */
async function answerToken({ keys, switches, users }, grantType, ctx, handler) {
  if (ctx.oidc.client.clientId === ANOTHER_APP) { // the demo app is not what is tested
    await handler(ctx);
    return;
  }
  switches.counters.token[grantType] += 1;

  const refreshing = grantType === 'refresh_token';
  const mode = refreshing && switches.token_refresh !== 'ok' ? switches.token_refresh : switches.token_endpoint;
  const challenged = refreshing && switches.graph === 'challenge' && ctx.oidc.body.claims;
  if (mode === 'interaction_required' || challenged) {
    ctx.status = 400;
    ctx.body = {
      error: 'interaction_required',
      error_description: 'AADSTS50076: the user must use multi-factor authentication',
      suberror: 'basic_action',
      claims: JSON.stringify({ access_token: { nbf: { essential: true, value: '1' } } }),
    };
    return;
  }
  const refusal = { error: 'invalid_grant', error_description: 'AADSTS70000: the grant was not accepted' };
  if (mode !== 'ok' && mode !== 'big' && await switches.fail(mode, ctx.res, refusal)) {
    ctx.respond = false;
    return;
  }
  try {
    await handler(ctx);
  } catch (error) {
    if (!refreshing || error.error !== 'invalid_scope') throw error;
    ctx.status = 400;
    ctx.body = { error: 'invalid_grant', error_description: 'AADSTS65001: consent is missing', suberror: 'consent_required' };
    return;
  }
  const answer = switches.padded(mode, ctx.body);
  const user = users.withSub(ctx.oidc.account.accountId);
  if (switches.client_info) answer.client_info = users.clientInfo(user);
  if (switches.access_token_bytes) answer.access_token = `${answer.access_token}.`.padEnd(switches.access_token_bytes, 'A');
  if (answer.id_token && switches.id_token) {
    const { claims = {}, header, key } = switches.id_token;
    answer.id_token = keys.mint({ claims: { ...decodedPayload(answer.id_token), ...claims }, header, key });
  }
  if (switches.omit_id_token) delete answer.id_token;
  if (switches.omit_refresh_token) delete answer.refresh_token;
  ctx.body = answer;
}

function policy({ users }) {
  const prompts = basePolicy();
  prompts.get('login').checks.add(new Check('login_hint', 'another user is wanted', 'login_required', ({ oidc }) => {
    const wanted = users.hinted(oidc.params.login_hint);
    return Boolean(wanted && oidc.session.accountId && wanted.sub !== oidc.session.accountId && !oidc.result?.login);
  }));
  prompts.add(new Prompt({ name: 'select_account', requestable: true }), 0);
  return prompts;
}

/** Consent is given without asking, and offline_access is kept, which oidc-provider drops without prompt=consent. */
async function grantEverything(ctx, { switches }) {
  const { client, params, provider, session } = ctx.oidc;
  if (params.scope?.split(' ').includes('openid') && !params.scope.includes('offline_access')) params.scope += ' offline_access';
  const known = session.grantIdFor(client.clientId);
  let grant = known && await provider.Grant.find(known);
  if (grant?.accountId !== session.accountId) grant = new provider.Grant({ accountId: session.accountId, clientId: client.clientId });
  grant.addOIDCScope(params.scope ?? 'openid');
  await grant.save();
  if (params.claims) switches.steppedUp.add(grant.jti);
  return grant;
}

function configuration(world) {
  const { addresses, keys, scopes, storage, switches, users } = world;
  const port = new URL(addresses.browser).port;
  return {
    adapter: storage.adapter,
    jwks: { keys: keys.places },
    scopes: [...new Set([...SCOPES, ...scopes])],
    claims: { openid: CLAIMS, sid: null, auth_time: null, iss: null, acr: null },
    conformIdTokenClaims: false,
    // Cookies do not tell ports apart: two providers on one machine must not share theirs.
    cookies: {
      names: { session: `session-${port}`, interaction: `interaction-${port}`, resume: `resume-${port}` },
      long: { httpOnly: true, sameSite: 'lax' },
      short: { httpOnly: true, sameSite: 'lax' },
      keys: [randomBytes(32).toString('base64url')],
    },
    extraParams: ['domain_hint', 'claims'],
    extraClientMetadata: { properties: ['frontchannel_logout_uri', 'frontchannel_logout_session_required'] },
    features: {
      devInteractions: { enabled: false },
      dPoP: { enabled: false },
      resourceIndicators: { enabled: false },
      claimsParameter: { enabled: false },
      pushedAuthorizationRequests: { enabled: false },
      externalSigningSupport: { enabled: true, ack: 'experimental-01' },
      revocation: { enabled: true },
      userinfo: { enabled: true },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: async (ctx, form) => {
          const { params, session, entities } = ctx.oidc;
          const user = users.withSub(session.accountId);
          const hinted = (params.logout_hint && params.logout_hint === user.login_hint)
            || entities.IdTokenHint?.payload.sub === user.sub;
          ctx.body = hinted ? signingOutPage({ form }) : signOutPage({ ...user, form });
        },
        postLogoutSuccessSource: async (ctx) => {
          ctx.type = 'html';
          ctx.body = signedOutPage();
        },
      },
    },
    fetch: (url, { dispatcher, ...options }) => {
      switches.counters.backchannel.sent += 1; // oidc-provider's dispatcher refuses loopback, and there is nothing else here
      return fetch(url, options);
    },
    findAccount: async (ctx, sub) => {
      const user = users.withSub(sub);
      return user && { accountId: sub, claims: async () => users.claims(user) };
    },
    interactions: { policy: policy(world), url: async (ctx, { uid }) => `/login/${uid}` },
    loadExistingGrant: (ctx) => grantEverything(ctx, world),
    issueRefreshToken: async (ctx, client, code) => client.grantTypeAllowed('refresh_token') && code.scopes.has('offline_access'),
    rotateRefreshToken: true,
    clientBasedCORS: () => false,
    renderError: async (ctx, out) => {
      ctx.type = 'html';
      ctx.body = errorPage(out);
    },
    routes: {
      authorization: '/authorize',
      end_session: '/logout',
      jwks: '/keys',
      revocation: '/revoke',
      token: '/token',
      userinfo: '/userinfo',
    },
    ttl: {
      AccessToken: () => switches.access_token_ttl,
      AuthorizationCode: 60,
      Grant: 14 * DAYS,
      IdToken: 3600,
      Interaction: 3600,
      RefreshToken: 14 * DAYS,
      Session: 14 * DAYS,
    },
  };
}

/** Front-channel logout left oidc-provider in 7.0: this answers with the frames instead of its redirect. */
async function frontchannel(ctx, { addresses, switches }) {
  const { provider, session } = ctx.oidc;
  const frames = [];
  for (const [clientId, { sid }] of Object.entries(session.authorizations ?? {})) {
    const client = await provider.Client.find(clientId);
    const address = client?.metadata().frontchannel_logout_uri;
    if (!address || !sid) continue;
    const url = new URL(address);
    if (switches.iss_in_frontchannel) url.searchParams.set('iss', addresses.issuer);
    url.searchParams.set('sid', sid);
    frames.push(url.href);
  }
  if (!frames.length || !switches.frontchannel) return;
  switches.counters.frontchannel += frames.length;
  const target = ctx.response.get('location');
  ctx.remove('Location');
  ctx.status = 200;
  ctx.type = 'html';
  ctx.body = frontchannelPage({ frames, target });
}

function metadata(body, { addresses, switches }) {
  const forBrowsers = (url) => new URL(new URL(url).pathname, addresses.browser).href;
  const forMachines = (url) => new URL(new URL(url).pathname, addresses.machine).href;
  const answer = {
    ...body,
    authorization_endpoint: forBrowsers(body.authorization_endpoint),
    end_session_endpoint: forBrowsers(body.end_session_endpoint),
    token_endpoint: forMachines(body.token_endpoint),
    jwks_uri: forMachines(body.jwks_uri),
    userinfo_endpoint: forMachines(body.userinfo_endpoint),
    revocation_endpoint: forMachines(body.revocation_endpoint),
    id_token_signing_alg_values_supported: ['RS256'],
    frontchannel_logout_supported: true,
    frontchannel_logout_session_supported: true,
  };
  if (!switches.revocation_endpoint) delete answer.revocation_endpoint;
  if (!switches.backchannel_logout_supported) {
    delete answer.backchannel_logout_supported;
    delete answer.backchannel_logout_session_supported;
  }
  return answer;
}

/** The tenant: `provider` (oidc-provider), `handler` for its requests, `register` for its apps. */
export function createTenant(world) {
  const { addresses, keys, storage, switches } = world;
  const provider = new (tenantClass(world))(addresses.issuer, configuration(world));
  // Entra's sid needs no back-channel address.
  provider.Client.prototype.includeSid = () => switches.sid_claim;

  const endpoints = { '/keys': 'jwks', '/revoke': 'revocation', '/.well-known/openid-configuration': 'discovery' };
  provider.use(async (ctx, next) => {
    const endpoint = endpoints[ctx.path];
    if (endpoint) {
      switches.counters[endpoint] += 1;
      if (await switches.fail(switches[endpoint], ctx.res)) {
        ctx.respond = false;
        return;
      }
    }
    await next();
    if (ctx.status === 200 && endpoint === 'discovery') ctx.body = switches.padded(switches.discovery, metadata(ctx.body, world));
    if (ctx.status === 200 && endpoint === 'jwks') ctx.body = switches.padded(switches.jwks, keys.jwks);
    if (ctx.oidc?.route === 'authorization') switches.counters.authorize += 1;
    if (ctx.oidc?.route === 'end_session') switches.counters.end_session += 1;
    if (ctx.oidc?.route === 'end_session_confirm' && ctx.status === 303 && ctx.oidc.session.destroyed) await frontchannel(ctx, world);
  });
  provider.on('backchannel.success', () => { switches.counters.backchannel.accepted += 1; });
  provider.on('backchannel.error', () => { switches.counters.backchannel.refused += 1; });
  provider.on('server_error', (ctx, error) => console.error(error));
  for (const event of ['authorization.error', 'grant.error', 'end_session.error', 'revocation.error']) {
    provider.on(event, (ctx, error) => console.error(`${event}: ${error.message} ${error.error_description ?? ''} ${error.error_detail ?? ''}`));
  }

  const callback = provider.callback();
  return {
    provider,
    handler: (req, res) => {
      req.originalUrl = req.url;
      req.url = req.url.slice(addresses.base.length) || '/';
      return callback(req, res);
    },
    /** Registers an app, or changes it.  Any client metadata of oidc-provider; what is left out fits MSAL. */
    register: (metadataOfClient) => {
      storage.put('Client', metadataOfClient.client_id, {
        client_secret: 'a-secret-of-this-machine-only',
        token_endpoint_auth_method: 'client_secret_post',
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        ...(metadataOfClient.backchannel_logout_uri && { backchannel_logout_session_required: true }),
        ...metadataOfClient,
      });
    },
  };
}
