"""Speaks Kafka. The only package that knows Kafka's names, versions and error codes."""

__version__ = "0.1.0"
