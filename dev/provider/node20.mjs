// oidc-provider is written for Node 22; the first releases of Node 20 lack one function that it uses.

URL.parse ??= (url, base) => (URL.canParse(url, base) ? new URL(url, base) : null);
