"""HTTP/1.1 on h11, with quotas for connections and requests."""
