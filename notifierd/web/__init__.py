"""Health checks, metrics and the status page; read-only, and without any effect on a run."""
