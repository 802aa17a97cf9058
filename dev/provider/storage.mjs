// oidc-provider's storage: in memory, unbounded.  (Its own forgets after a thousand entries, which a load test has in seconds.)

const GRANTED = new Set(['AccessToken', 'AuthorizationCode', 'RefreshToken']);
const SWEEP_EVERY = 60_000;

export class Storage {
  #models = new Map();
  #grants = new Map();
  #sessionIds = new Map();
  /** All that was given to apps, gone or not: codes, tokens, and what they call their sessions. */
  issued = new Set();

  constructor() {
    setInterval(() => this.#sweep(), SWEEP_EVERY).unref();
  }

  /** What oidc-provider calls an adapter, for one of its models. */
  adapter = (model) => ({
    upsert: async (id, payload, expiresIn) => this.put(model, id, payload, expiresIn),
    find: async (id) => this.get(model, id),
    findByUid: async (uid) => this.get('Session', this.#sessionIds.get(uid)),
    findByUserCode: async () => undefined,
    consume: async (id) => {
      this.get(model, id).consumed = Math.floor(Date.now() / 1000);
    },
    destroy: async (id) => this.remove(model, id),
    revokeByGrantId: async (grantId) => {
      for (const [owner, id] of this.#grants.get(grantId) ?? []) this.remove(owner, id);
      this.#grants.delete(grantId);
    },
  });

  put(model, id, payload, expiresIn) {
    const until = typeof expiresIn === 'number' ? Date.now() + expiresIn * 1000 : Infinity;
    this.#of(model).set(id, { payload, until });
    if (GRANTED.has(model)) this.issued.add(id);
    if (model === 'Session') {
      this.#sessionIds.set(payload.uid, id);
      for (const { sid } of Object.values(payload.authorizations ?? {})) if (sid) this.issued.add(sid);
    }
    if (GRANTED.has(model) && payload.grantId) {
      if (!this.#grants.has(payload.grantId)) this.#grants.set(payload.grantId, []);
      this.#grants.get(payload.grantId).push([model, id]);
    }
  }

  get(model, id) {
    const entry = this.#of(model).get(id);
    return entry && entry.until > Date.now() ? entry.payload : undefined;
  }

  remove(model, id) {
    const entry = this.#of(model).get(id);
    this.#of(model).delete(id);
    if (model === 'Session' && entry && this.#sessionIds.get(entry.payload.uid) === id) this.#sessionIds.delete(entry.payload.uid);
  }

  all(model) {
    return [...this.#of(model).values()].filter(({ until }) => until > Date.now()).map(({ payload }) => payload);
  }

  #of(model) {
    if (!this.#models.has(model)) this.#models.set(model, new Map());
    return this.#models.get(model);
  }

  #sweep() {
    const now = Date.now();
    for (const [model, entries] of this.#models) {
      for (const [id, { until }] of entries) if (until <= now) this.remove(model, id);
    }
  }
}
