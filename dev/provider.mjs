// The identity provider of a developer's machine: oidc-provider, shaped like a tenant of Microsoft Entra ID.
//
//   node provider.mjs CONFIG.json
//
// It listens twice on 127.0.0.1: http for what a browser visits (so that no browser warns), https with a certificate of the
// throw-away CA for what MSAL calls (MSAL refuses http).  The issuer is the https address.  When it listens it prints one line
// of JSON on stdout: {"ready": {"browser": "http://…", "issuer": "https://…", …}}.  It ends when its stdin does, so that it never
// outlives the process that started it.
//
// CONFIG: { tenant, certificate, key, keys_file?, clients: [client metadata], scopes?: [], switches?: {}, http_port?, https_port?,
//           address?: the https address to go by, where something stands in front of ours }
//
// What lives elsewhere: provider/tenant.mjs (the OpenID Provider), provider/login.mjs (its pages' routes), provider/graph.mjs,
// provider/another_app.mjs (a second app of the same tenant), provider/control.mjs (what tests may turn).

import './provider/node20.mjs';

import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import process from 'node:process';

import { anotherApp } from './provider/another_app.mjs';
import { control } from './provider/control.mjs';
import { graph } from './provider/graph.mjs';
import { KeyRing } from './provider/keys.mjs';
import { login } from './provider/login.mjs';
import { Storage } from './provider/storage.mjs';
import { Switches } from './provider/switches.mjs';
import { createTenant } from './provider/tenant.mjs';
import { Users } from './provider/users.mjs';
import { send } from './provider/wire.mjs';

const HOST = '127.0.0.1';
const NAMES = new Set([HOST, 'localhost']);

function listen(server, port) {
  // A pooled connection must not be closed under a client that is about to use it again.
  server.keepAliveTimeout = 75_000;
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, HOST, () => resolve(server.address().port));
  });
}

async function main() {
  const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
  const routes = [];
  const serve = async (req, res) => {
    try {
      // Another site's page must not reach us under a name it controls.
      if (!NAMES.has(new URL(`http://${req.headers.host}`).hostname)) return send(res, 421, 'This provider serves loopback only.');
      const { pathname } = new URL(req.url, 'http://provider');
      for (const [prefix, handler] of routes) {
        if (pathname === prefix || pathname.startsWith(`${prefix}/`)) return await handler(req, res);
      }
      return send(res, 404, 'There is nothing here.');
    } catch (error) {
      console.error(error);
      if (!res.headersSent) send(res, 500, 'The provider failed; its log says why.');
      return undefined;
    }
  };
  const plain = http.createServer(serve);
  const secure = https.createServer({ cert: readFileSync(config.certificate), key: readFileSync(config.key) }, serve);
  const [httpPort, httpsPort] = await Promise.all([listen(plain, config.http_port ?? 0), listen(secure, config.https_port ?? 0)]);

  const base = `/${config.tenant}/v2.0`;
  const machine = config.address ?? `https://${HOST}:${httpsPort}`;
  const addresses = {
    browser: `http://${HOST}:${httpPort}`,
    machine,
    base,
    issuer: `${machine}${base}`,
    anotherApp: `http://${HOST}:${httpPort}/another-app`,
  };
  const keys = await KeyRing.load(config.keys_file);
  const world = {
    addresses,
    keys,
    scopes: config.scopes ?? [],
    storage: new Storage(),
    switches: new Switches(config.switches ?? {}),
    users: new Users(config.tenant),
  };
  const tenant = createTenant(world);
  const another = anotherApp(world);
  for (const client of [...config.clients, another.client]) tenant.register(client);
  routes.push(
    [base, tenant.handler],
    ['/login', login(world, tenant.provider)],
    ['/graph', graph(world, tenant.provider)],
    ['/another-app', another.handler],
    ['/test', control(world, tenant)],
  );
  console.log(JSON.stringify({
    ready: {
      browser: addresses.browser,
      issuer: addresses.issuer,
      graph: `${addresses.machine}/graph/v1.0`,
      another_app: addresses.anotherApp,
    },
  }));

  process.stdin.resume();
  process.stdin.on('error', () => process.exit(0));
  process.stdin.on('end', () => process.exit(0));
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
}

main().catch((error) => {
  console.error(error.message ?? error);
  process.exit(1);
});
