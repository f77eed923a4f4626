"""Client processes: each drives one client library by one JSON request per line, one answer per line."""
