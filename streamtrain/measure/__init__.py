"""Numbers about a run: one quantity, one file, its equation in the docstring. No files, no Ray, no torch."""
