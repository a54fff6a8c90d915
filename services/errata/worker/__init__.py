"""The LLM worker: a replica of the edited model, and its Ray Serve deployment."""
