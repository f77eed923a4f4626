"""Histories of concurrent transactions, and whether anything that exactly-once forbids happened in them.

`history` is what clients write down, `analysis` judges it (pure: no clients, no clock), `workload` makes one against a
server, `faults` hurts the server meanwhile. `python -m compat_tests.histories --help` runs it for as long as asked.
"""
