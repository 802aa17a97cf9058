"""What is kept: sessions and the index that points to them, sealed, in two tables.

``table.py`` is the narrow protocol, ``azure_table.py`` and ``memory_table.py`` keep it; ``sessions.py`` and ``index.py`` give
the rows their meaning and ``sealing.py`` closes them.  Nothing here knows the provider or HTTP.
"""
