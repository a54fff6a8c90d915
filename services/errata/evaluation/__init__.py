"""Data sets, metrics and benchmarks of editing; runs in process, without services."""
