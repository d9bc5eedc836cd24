"""A user's model at work: its objective, its gradient, its device, and which lanes go through it together."""
