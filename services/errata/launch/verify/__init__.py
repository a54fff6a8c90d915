"""`errata verify`: checks a whole log and its artifacts without any service.

| module | question |
|---|---|
| `sources` | Where do the entries come from: a file, a Redis, the folder of a box? |
| `verifier` | Do chain, signatures and artifacts hold? |
| `run` | Reads a source, and tells the verifier what else has seen the log. |
| `report` | What was found, and how does it look? |
"""
