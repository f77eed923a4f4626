"""`penstock bench`: a load generator for anything that speaks Kafka's protocol.

The coordinator starts one process per worker, tells all of them the same starting time, and merges what they count.
A worker drives one client library and records latencies; what the load is, a `Plan` says. Nothing here knows Penstock.
"""
