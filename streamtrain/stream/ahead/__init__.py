"""Batches that are decoded ahead of a worker, in a process of their own, and how they come to it."""
