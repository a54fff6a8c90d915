"""What every holder of the model does with the log: read entries, apply them to the lanes."""
