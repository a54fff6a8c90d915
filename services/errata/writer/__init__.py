"""The edit-writer: accepts edits, fits them in log order, checks, and commits or rejects."""
