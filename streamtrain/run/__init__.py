"""Who runs where, and what happens until the run ends."""
