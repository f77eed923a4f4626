"""The ground of the scenarios: the system under test, client processes, and the words they share."""
