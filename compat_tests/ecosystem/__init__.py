"""Software of others that people run beside Kafka, run against Penstock, each as its users run it."""
