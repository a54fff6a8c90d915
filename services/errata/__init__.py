"""Errata publishes corrections to a running, replicated language model."""
