"""Data sets, metrics and benchmarks: of editing methods, of serving, and of whole systems."""
