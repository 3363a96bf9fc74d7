"""What an evaluation has beyond a validation: its preprocessing, its figures and its files."""
