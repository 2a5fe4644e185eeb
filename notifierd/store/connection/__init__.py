"""What a connection is asked for, what holds on it, and what is said where it fails."""
