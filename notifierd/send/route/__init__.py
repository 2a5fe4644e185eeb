"""The way to a server: which certificates are trusted, and the connection through a proxy."""
