"""A system on one machine: `errata up`, `errata demo`, checks, and what commands print."""
