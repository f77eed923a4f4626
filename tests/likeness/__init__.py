"""Penstock beside Apache Kafka 4.3.1: what a real broker says, kept as fixtures, and Penstock held against it.

`answers.json` is what a Kafka without security and with classic groups only answers to `questions.py`:
`python -m tests.likeness.record` starts one from compat_tests/java/target/lib and writes the file again.
`ranges.json` is which values Kafka's own validators take for the keys that Penstock shares with it:
`python -m tests.likeness.ranges` asks them and writes the file again.
"""
