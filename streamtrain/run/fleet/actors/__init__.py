"""A run's workers as Ray actors: who is recruited, who sits where, and what happens when some are lost."""
