"""What the replica's process and vLLM's workers agree on."""

ARGUMENT = "errata"
"""Key of a row's effects in `SamplingParams.extra_args`."""
