"""The gateway: one address for inference, editing and reading the log."""
