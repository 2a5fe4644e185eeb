"""The domain model: frozen values."""
