"""The product: sign-in, sessions and sign-out for a web app on Azure Functions.

Where things are:
  settings.py, errors.py, limits.py   read and checked once; one error tree; time limits
  app.py                              builds everything once from the settings: the only place that knows all wings
  flows/                              what happens: sign_in, access, sign_out, sweep
  store/                              what is kept: tables, sessions, index, sealing
  provider/                           who vouches: discovery, keys, claim checks, MSAL
  web/                                what goes over the wire: messages, cookies, urls, pages, functions

Import rules (a test checks them): ``store``, ``provider`` and ``web`` know nothing of each other; ``flows`` know the wings
by their protocols and values and import no SDK; each SDK has one importer.
"""
