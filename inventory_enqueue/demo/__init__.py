"""The demo, and what it is made of: a synthetic bucket over days, its deliveries, and an embedded S3 and SQS server."""
