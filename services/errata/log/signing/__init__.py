"""Signatures of commits: keys, the manifest that is signed, and whom the log trusts.

| module | question |
|---|---|
| `keys` | Which key signs, and how is it named and kept? |
| `manifest` | What exactly is signed? |
| `trust` | Which keys count at a position, and is an entry signed by one of them? |
"""
