"""Who vouches for the user: the OpenID Provider, Entra ID or any other.

Where things are:
  client.py        the wing's front door, ``Provider``: what the flows call
  values.py        what goes in and comes out; plain values
  discovery.py     the provider's metadata, and which issuers are the configured one
  keys.py          the provider's keys and signatures (the only importer of ``jwt``)
  tokens.py        what ID and logout tokens must claim; pure, ``now`` is an argument
  answers.py       what the token endpoint's answers mean; pure
  token_cache.py   MSAL's token cache as bytes: read, compact, trimmed; pure
  msal_client.py   the token requests (the only importer of ``msal``)
  certificate.py   the app's certificate as client credential
  graph.py         the example's API, Microsoft Graph
  http.py          the one HTTP session, with a time limit for the whole call (the only importer of ``requests``)
  kept.py          a value fetched from the provider and kept
  first_use.py     something made when it is first needed

The wing knows nothing of storage, cookies or pages.  Nothing heavy is imported before it is needed.
"""
