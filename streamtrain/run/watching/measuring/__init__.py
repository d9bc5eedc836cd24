"""Both risks on a run's way: where they are measured, by whom, and on which examples."""
