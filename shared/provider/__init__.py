"""Who vouches for the user: the OpenID Provider, Entra ID or any other.

Where things are:
  client.py        the wing's front door, ``Provider``: what the flows call
  values.py        what goes in and comes out; plain values
  discovery.py     the provider's metadata: fetched, checked, kept; which issuers are the configured one
  keys.py          the provider's keys and signatures (the only importer of ``jwt``)
  tokens.py        what ID and logout tokens must claim; pure, ``now`` is an argument
  token_cache.py   MSAL's token cache as bytes: compact, trimmed, merged; pure
  msal_client.py   the token requests (the only importer of ``msal``)
  http.py          the one HTTP session, with a time limit for the whole call (the only importer of ``requests``)

The wing knows nothing of storage, cookies or pages.  Nothing heavy is imported before it is needed.
"""
