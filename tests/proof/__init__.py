"""The proof of the protocol: the product's own flows, run through every interleaving of their storage calls.

  explorer.py   actors as greenlets, schedules as lists of choices, every state once
  stepped.py    a table whose every call is a step, and the faults that a call may meet
  provider.py   an identity provider small enough to be certain of
  world.py      the product over stepped tables: browsers, the requests they send, and what must hold

``docs/proof.md`` says what is proven, and which guard closes which trace.
"""
