"""What every API shares: queues, served_models, images of requests, tables. Knows no HTTP."""
