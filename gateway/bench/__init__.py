"""`penstock bench`: a load generator for anything that speaks Kafka's protocol.

The coordinator starts one process per worker, gives all of them the same starting time, and merges their counts.
A worker drives one client library and records latencies; a `Plan` defines the load. Nothing here knows Penstock.
"""
