"""Retrieval and routing: the indices that decide which edit claims which prompt."""
