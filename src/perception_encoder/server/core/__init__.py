"""What every API shares: queues, served_models, images of requests, indexes. Knows no HTTP."""
