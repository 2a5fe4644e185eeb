"""One TOML file, credentials and the environment become frozen tables."""
