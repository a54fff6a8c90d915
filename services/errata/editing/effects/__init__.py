"""Effects of edits on the rows that they claim: prefixes, mixtures of LoRAs, experts.

`effect.py` says what an effect consists of; each other module but `plan.py`, `table.py`,
`hooks.py` and `columns.py` is one effect.
"""
