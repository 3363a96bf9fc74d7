"""The trainer: configuration, local data, loop, evaluation, checkpoints, records."""
