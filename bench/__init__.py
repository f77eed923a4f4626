"""Measurements against a running gateway: the load is librdkafka's, the figures are the machine's."""
