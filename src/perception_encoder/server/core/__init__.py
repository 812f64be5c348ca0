"""What every dialect shares: queues, engines, images of requests, tables. Knows no HTTP."""
