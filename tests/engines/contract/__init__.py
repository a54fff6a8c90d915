"""The contract of engines: every engine passes these tests."""
