"""Everything on one machine: `errata up`, `errata demo` and what the tests start."""
