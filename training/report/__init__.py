"""What a run tells a person: metrics, the console and what slows it down."""
