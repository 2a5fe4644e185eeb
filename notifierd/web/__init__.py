"""What an operator looks at: health, metrics, and the page. Nothing here may hold up a run, or end one."""
