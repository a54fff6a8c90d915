"""The front door: one address for inference, editing and the log's read side."""
