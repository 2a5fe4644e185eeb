"""The commands that call a provider without a run: `check --connect` and `test`."""
