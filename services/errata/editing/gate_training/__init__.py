"""Training of a gate that serves any LLM: many relations, in many forms."""
