"""vLLM as an engine of Errata's workers."""
