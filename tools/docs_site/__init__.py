"""Builds the documentation site from `docs/`, with reference pages made from the code.

    python -m tools.docs_site [--output build/site]

| module | what |
|---|---|
| `staging` | copies `docs/` and rewrites links to files outside it |
| `notebooks` | notebooks as pages |
| `cli`, `settings`, `protos`, `http`, `errors`, `sdk` | a reference page each, from the code |
| `navigation` | which page belongs to which section |
| `built` | checks every link of the finished pages |

Zensical turns the staged pages into HTML, strictly: a link or anchor that leads nowhere fails the
build. Nothing is fetched from a network, then or when a page is read.
"""
