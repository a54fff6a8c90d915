"""`errata backup` and `errata restore`: a copy of a log and its artifacts, and the way back.

| module | question |
|---|---|
| `folder` | Where is a backup, and how are its files read and written? |
| `manifest` | What does a backup hold, and is its list whole? |
| `segments` | How are entries kept in files? |
| `create` | How is a running log copied? |
| `check` | Does a backup hold what it says, up to a position? |
| `restore` | How does an empty deployment get a log from it? |
"""
