"""The base model: families, loading, tokens, and the matrices that edits change."""
