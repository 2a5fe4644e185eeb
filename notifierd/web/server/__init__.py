"""HTTP/1.1 on h11: connections, and the places that there are for them."""
