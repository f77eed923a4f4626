"""Real clients against a real server: the same scenarios hold for Penstock and for Apache Kafka."""
