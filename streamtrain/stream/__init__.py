"""Shards at rest to arrays: find an example by its number, read it, decode it, and do so ahead of the worker."""
