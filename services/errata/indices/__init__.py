"""Search indices on FAISS for the lanes that route."""
