"""Published results: small committed JSON files, and the pages that are made from them.

| module | what |
|---|---|
| `condense` | a run's `result.json` without anything about single records |
| `tables` | tables of `docs/results/tables.toml`, filled from the files |
| `comparisons` | paired differences between runs |
| `pages` | the parts of Markdown pages between markers |
| `curves` | plots of figures as edits accumulate |
"""
