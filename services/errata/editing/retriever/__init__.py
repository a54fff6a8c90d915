"""A learned scope test: encoder, key and query heads, and the Knowledge Sentinel."""
