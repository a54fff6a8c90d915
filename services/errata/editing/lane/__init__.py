"""Lanes: the contract, commits, claims, and the parts that lanes share."""
