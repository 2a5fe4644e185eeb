"""The members of a day, in PostgreSQL."""
