"""What every dialect shares: queues, engines, pictures of requests, tables. Knows no HTTP."""
