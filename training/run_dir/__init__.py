"""The run directory: records, checkpoints, the lock and the mirror in a bucket."""
