"""The trainer: configuration, local data, loop, evaluation, checkpoints, records."""

import sources  # noqa: F401  # says so where this is not Linux
