"""Command-line tools beside train.py: ``python -m scripts.NAME``."""

import aistore_data  # noqa: F401  # says so where this is not Linux
