"""What happens: each flow reads from top to bottom as its numbered steps.

  site.py       what every flow knows of this app: its origin, cookies and the scope of a sign-out
  pending.py    sign-ins under way, sealed in the browser's cookies
  sign_in.py    to the provider and back
  access.py     who is signed in, and their tokens
  sign_out.py   the user's own sign-out, here and everywhere, device by device
  channels.py   the provider's sign-outs: front-channel and back-channel; and the administrator's
  sweep.py      what expired goes
  audit.py      one record for each sign-in and sign-out

Flows know the wings by their protocols and values and import no SDK.
"""
