"""Where the time of slow requests goes: a gateway whose parts note their times, and the reading of these notes.

The gateway itself has no trace: `bench.trace.serve` puts one around its parts before it begins.
"""
