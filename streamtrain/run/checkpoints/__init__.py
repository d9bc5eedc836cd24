"""What a run leaves behind so that it can go on after anything: its state, its progress, and where to find them."""
