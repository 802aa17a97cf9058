// The tenant's people: two who are always there, anybody by name, and those a test describes.

import { createHash } from 'node:crypto';

function digest(...parts) {
  return createHash('sha256').update(JSON.stringify(parts)).digest();
}

/** A GUID that stays the same for the same parts. */
export function guid(...parts) {
  const hex = digest(...parts).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join('-');
}

export class Users {
  #tenant;
  #byLogin = new Map();
  #bySub = new Map();

  constructor(tenant) {
    this.#tenant = tenant;
    this.define({ login: 'alice', name: 'Alice Example', shown: true });
    this.define({ login: 'bob', name: 'Bob Example', shown: true });
  }

  /**
   * Adds or replaces a user.  Besides `login` all is optional; null takes a claim away.  `uid` and `utid` are what client_info
   * says, `claims` are further claims of the ID token.
   */
  define({ login, ...given }) {
    if (typeof login !== 'string' || !login) throw new Error('login must be a text');
    const name = given.name ?? login;
    const username = given.username ?? `${login.toLowerCase().replace(/[^a-z0-9]+/g, '.')}@example.test`;
    const oid = given.oid === undefined ? guid('oid', this.#tenant, login) : given.oid;
    const user = {
      login,
      name,
      username,
      oid,
      sub: given.sub ?? digest('sub', this.#tenant, login).toString('base64url'),
      tid: given.tid === undefined ? this.#tenant : given.tid,
      uid: given.uid ?? oid ?? guid('oid', this.#tenant, login),
      utid: given.utid ?? this.#tenant,
      login_hint: given.login_hint === undefined ? `O.${digest('hint', login).toString('base64url')}` : given.login_hint,
      claims: given.claims ?? {},
      shown: given.shown ?? false,
    };
    const before = this.#byLogin.get(login);
    if (before) this.#bySub.delete(before.sub);
    this.#byLogin.set(login, user);
    this.#bySub.set(user.sub, user);
    return user;
  }

  /** The users that have a button on the login page. */
  get shown() {
    return [...this.#byLogin.values()].filter((user) => user.shown);
  }

  withSub(sub) {
    return this.#bySub.get(sub);
  }

  /** The user with that login; whoever is not known yet is made up. */
  withLogin(login) {
    return this.#byLogin.get(login) ?? this.define({ login });
  }

  /** Whom an authorization request's login_hint means: a user name or the login_hint claim. */
  hinted(hint) {
    return [...this.#byLogin.values()].find((user) => hint && (user.login_hint === hint || user.username === hint));
  }

  claims(user) {
    const claims = {
      sub: user.sub,
      name: user.name,
      preferred_username: user.username,
      oid: user.oid,
      tid: user.tid,
      login_hint: user.login_hint,
      ver: '2.0',
      ...user.claims,
    };
    return Object.fromEntries(Object.entries(claims).filter(([, value]) => value !== null));
  }

  clientInfo(user) {
    return Buffer.from(JSON.stringify({ uid: user.uid, utid: user.utid })).toString('base64url');
  }
}
