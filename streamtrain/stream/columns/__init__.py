"""Mapped shards as columns, for every field: in samples of one size, in blocks, or in members to be decoded."""
