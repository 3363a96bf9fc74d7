"""Data sets as the trainer sees them: a manifest of names and labels, and where the bytes come from."""
