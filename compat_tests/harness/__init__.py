"""What the scenarios stand on: the system under test, client processes, and the words they share."""
