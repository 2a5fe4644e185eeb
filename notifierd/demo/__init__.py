"""The demo, and the servers that the tests use too."""
