"""What `goodput` runs: ours, and DDP under torchrun, each with faults at regular times."""
