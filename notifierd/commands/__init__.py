"""The commands. Each one is a function that returns its result as a value."""
