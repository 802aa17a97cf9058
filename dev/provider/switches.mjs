// What a test may turn while the provider runs, how often each endpoint was asked, and the ways in which an endpoint can fail.

import { setTimeout as sleep } from 'node:timers/promises';

/** The ways an endpoint can fail; `ok` is none.  `400` is the endpoint's own refusal, `slow` answers well but late. */
export const FAULTS = ['ok', '400', '500', '503', 'html', 'hang', 'drop', 'drip', 'slow', 'big'];

const DEFAULTS = {
  // Endpoints: one of FAULTS each.  `token_refresh` is for refresh_token grants alone, and goes before `token_endpoint`.
  token_endpoint: 'ok',
  token_refresh: 'ok',
  discovery: 'ok',
  jwks: 'ok',
  revocation: 'ok',
  graph: 'ok', // also: challenge
  slow_seconds: 2,
  // The token endpoint's answer.
  access_token_ttl: 3600, // seconds
  access_token_bytes: 0, // pads access tokens to about this size
  client_info: true,
  id_token: null, // { claims, header, key } as for /test/logout-token: signs the ID token anew with these changes
  omit_id_token: false,
  omit_refresh_token: false,
  // Sessions and sign-out.
  sid_claim: true, // Entra sends it only where the app registration asks for the optional claim
  session_state: 'sid', // in the callback: sid, other, none
  iss_in_frontchannel: false, // Entra sends sid alone
  frontchannel: true, // whether sign-out calls the apps' front-channel addresses
  // Metadata.  Entra has neither.
  backchannel_logout_supported: false,
  revocation_endpoint: false,
};

const CHOICES = {
  token_endpoint: FAULTS,
  token_refresh: [...FAULTS, 'interaction_required'],
  discovery: FAULTS,
  jwks: FAULTS,
  revocation: FAULTS,
  graph: [...FAULTS, 'challenge'],
  session_state: ['sid', 'other', 'none'],
};

function noCounts() {
  return {
    authorize: 0,
    token: { authorization_code: 0, refresh_token: 0 },
    discovery: 0,
    jwks: 0,
    graph: 0,
    revocation: 0,
    end_session: 0,
    frontchannel: 0,
    backchannel: { sent: 0, accepted: 0, refused: 0 },
  };
}

export class Switches {
  #start;
  counters = noCounts();
  /** Grants whose user came back with the claims of a challenge. */
  steppedUp = new Set();

  constructor(start) {
    this.#start = start;
    this.reset();
  }

  /** Everything as it was when the provider started. */
  reset() {
    Object.assign(this, DEFAULTS);
    this.set(this.#start);
    this.counters = noCounts();
  }

  /** Throws, with nothing changed, where a name or a value is not known. */
  set(values) {
    for (const [name, value] of Object.entries(values)) {
      if (!Object.hasOwn(DEFAULTS, name)) throw new Error(`no such switch: ${name}`);
      if (CHOICES[name] && !CHOICES[name].includes(value)) throw new Error(`${name} must be one of ${CHOICES[name].join(', ')}`);
      if (name !== 'id_token' && typeof value !== typeof DEFAULTS[name]) throw new Error(`${name} must be a ${typeof DEFAULTS[name]}`);
    }
    Object.assign(this, values);
    if ('graph' in values) this.steppedUp.clear();
  }

  get values() {
    return Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, this[name]]));
  }

  /**
   * Fails as `mode` says.  Returns whether the answer was given; `ok`, `slow` (after its pause) and `big` leave it to the caller.
   * `refusal` is the JSON of a 400.
   */
  async fail(mode, res, refusal = { error: 'invalid_request' }) {
    const answer = (status, type, text) => {
      res.writeHead(status, { 'Content-Type': type, 'Cache-Control': 'no-store' });
      res.end(text);
      return true;
    };
    switch (mode) {
      case '400': return answer(400, 'application/json', JSON.stringify(refusal));
      case '500': return answer(500, 'text/plain', 'internal server error');
      case '503': return answer(503, 'text/plain', 'service unavailable');
      case 'html': return answer(200, 'text/html', '<!DOCTYPE html><title>Maintenance</title><p>We will be back.</p>');
      case 'hang': return true;
      case 'drop':
        res.destroy();
        return true;
      case 'drip': {
        // A byte at a time: no single read ever times out.
        res.writeHead(200, { 'Content-Type': 'application/json' });
        const drip = setInterval(() => res.write(' '), 200);
        res.on('close', () => clearInterval(drip));
        return true;
      }
      case 'slow':
        await sleep(this.slow_seconds * 1000);
        return false;
      default: return false;
    }
  }

  /** A good answer made 1 MB long. */
  padded(mode, body) {
    return mode === 'big' ? { ...body, padding: 'x'.repeat(1024 * 1024) } : body;
  }
}
