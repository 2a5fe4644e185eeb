"""Connections to PostgreSQL: their arguments, their settings, and advice on their errors."""
