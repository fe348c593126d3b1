"""Data larger than memory: the shard format, its reader, cache and external shuffle."""
