"""What a run is made of and remembers, and whether it may go on."""
