"""The demo, with the servers that the tests use, too."""
