"""The catalog: follows the log into a database that finds edits and tells of events."""
