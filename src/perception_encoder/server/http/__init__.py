"""HTTP: connections, middleware, bodies of requests, replies, keys, metrics and logs."""
