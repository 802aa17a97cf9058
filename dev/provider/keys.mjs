// The tenant's signing keys, and tokens signed with them, right or wrong on purpose.

import { createHmac, createPrivateKey, createPublicKey, generateKeyPair, randomBytes, sign } from 'node:crypto';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';

import { ExternalSigningKey } from 'oidc-provider';

const generate = promisify(generateKeyPair);

async function newKey() {
  const { privateKey } = await generate('rsa', { modulusLength: 2048 });
  return { kid: randomBytes(12).toString('base64url'), pem: privateKey.export({ type: 'pkcs8', format: 'pem' }) };
}

function opened({ kid, pem }) {
  const privateKey = createPrivateKey(pem);
  return { kid, pem, privateKey, publicKey: createPublicKey(privateKey) };
}

function encode(value) {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}

/** One place of the ring as oidc-provider sees it: what is in it changes when the keys rotate. */
class PlaceOfRing extends ExternalSigningKey {
  #ring;
  #place;

  constructor(ring, place) {
    super();
    this.#ring = ring;
    this.#place = place;
  }

  get kid() {
    return this.#ring[this.#place].kid;
  }

  get alg() {
    return 'RS256';
  }

  keyObject() {
    return this.#ring[this.#place].publicKey;
  }

  async sign(data) {
    return sign('sha256', data, this.#ring[this.#place].privateKey);
  }
}

export class KeyRing {
  current;
  previous;
  #unknown;

  constructor([current, previous, unknown]) {
    this.current = opened(current);
    this.previous = opened(previous);
    this.#unknown = opened(unknown);
  }

  /** Keys are kept in `file`, because making three of them takes longer than all the rest of the start. */
  static async load(file) {
    if (file && existsSync(file)) return new KeyRing(JSON.parse(readFileSync(file, 'utf8')));
    const keys = await Promise.all([newKey(), newKey(), newKey()]);
    if (file) {
      writeFileSync(`${file}.${process.pid}`, JSON.stringify(keys), { mode: 0o600 });
      renameSync(`${file}.${process.pid}`, file);
    }
    return new KeyRing(keys);
  }

  /** For oidc-provider's `jwks`: signs with the current key, verifies with both. */
  get places() {
    return [new PlaceOfRing(this, 'current'), new PlaceOfRing(this, 'previous')];
  }

  /** What is published. */
  get jwks() {
    return {
      keys: [this.current, this.previous].map(({ kid, publicKey }) => ({
        ...publicKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256',
      })),
    };
  }

  async rotate() {
    this.previous = this.current;
    this.current = opened(await newKey());
  }

  /**
   * A signed token.  `key`: current, previous, unknown (never published), none (alg none), hmac (HS256 with the current public
   * key as the secret).  null in `header` or `claims` takes a member away.
   */
  mint({ header = {}, claims = {}, key = 'current' }) {
    const signer = key === 'unknown' ? this.#unknown : this[key === 'previous' ? 'previous' : 'current'];
    const alg = { none: 'none', hmac: 'HS256' }[key] ?? 'RS256';
    if (!['current', 'previous', 'unknown', 'none', 'hmac'].includes(key)) throw new Error(`no such key: ${key}`);
    const given = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));
    const data = `${encode(given({ alg, kid: signer.kid, ...header }))}.${encode(given(claims))}`;
    if (key === 'none') return `${data}.`;
    if (key === 'hmac') {
      const secret = this.current.publicKey.export({ type: 'spki', format: 'pem' });
      return `${data}.${createHmac('sha256', secret).update(data).digest('base64url')}`;
    }
    return `${data}.${sign('sha256', Buffer.from(data), signer.privateKey).toString('base64url')}`;
  }
}
