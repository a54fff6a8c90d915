"""`errata bench serve`: throughput and latency under load, as ratios measured in one run."""
