"""Command-line tools beside train.py: ``python -m scripts.NAME``."""
