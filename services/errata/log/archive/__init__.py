"""The archive: entries that left Redis, in the artifact store, and how they get there.

| module | question |
|---|---|
| `container` | How does a file of the archive say what it is, and how is it refused? |
| `segment` | How is a run of entries stored and verified? |
| `index` | Which segments are there, and which fold ends them? |
| `archive` | Reads the files, and verifies them against each other. |
| `records` | Reads the log's entries, wherever they are. |
| `trim` | Moves the entries that a snapshot covers from Redis to the archive. |
| `trimmer` | When is that due? |
| `horizon` | Which request ids may Redis forget? |
"""
