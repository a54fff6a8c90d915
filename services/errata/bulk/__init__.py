"""Many edits at once: files of corrections go in, all edits come out, two states are compared."""
