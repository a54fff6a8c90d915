"""The gateway over HTTP: the OpenAI API for inference, JSON for editing and reading the log."""
