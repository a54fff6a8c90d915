"""FAISS search indices for the lanes that route."""
