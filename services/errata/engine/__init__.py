"""Batched generation and scoring over a causal LM; runs without Ray, Redis and gRPC."""
