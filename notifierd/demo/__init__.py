"""Everything that the demo needs on one machine: a PostgreSQL, a sample application, a mail API, a push service.

The repository's own tests use the same pieces. None of it is imported by the daemon.
"""
