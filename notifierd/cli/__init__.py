"""The command line: reads arguments, prints results, and returns an exit code."""
