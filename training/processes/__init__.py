"""The processes of a run: ranks, signals, launching and how they end."""
