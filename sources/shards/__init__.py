"""Tar shards in WebDataset's layout: where each photo lies in which of them, kept, and read from there."""
