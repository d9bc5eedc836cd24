"""The user's module itself: its tensors, the modes of its parts, and parameters to begin with."""
