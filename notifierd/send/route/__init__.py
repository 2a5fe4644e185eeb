"""The way to a server: which certificates are trusted, the connection, also through a proxy, and HTTP over it."""
