"""Command-line tools beside train.py: ``python -m scripts.NAME``."""

import sources  # noqa: F401  # says so where this is not Linux
