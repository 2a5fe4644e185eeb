"""Health, metrics, the page; it looks, and never touches a run."""
