"""The retrieval service: decides which edits claim which prompts."""
