"""Tests of errata-vllm, which run in an environment with vLLM: `make test-vllm`."""
