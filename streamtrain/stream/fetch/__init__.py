"""Shards from a store to files of this machine: whole or in part, checked, through a cache that the host shares."""
