"""Data sets: formats, checks, splits, shards and the loader that ties them together."""
