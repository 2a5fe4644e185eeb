"""Read one TOML file, credentials and the environment into frozen tables."""
