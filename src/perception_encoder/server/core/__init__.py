"""What every API uses: models, queues, images of requests, indexes and jobs. Knows no HTTP."""
