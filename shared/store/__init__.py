"""What is kept: sessions and the index that points to them, sealed, in two tables.

``table.py`` is the narrow protocol, ``azure_table.py`` and ``memory_table.py`` keep it.  ``rows.py`` says what a session's row
holds, sealed by ``sealing.py``; ``sessions.py`` when it is written and deleted; ``index.py`` what points to it.  Nothing here
knows the provider or HTTP.
"""
