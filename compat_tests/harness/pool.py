"""The client processes that a whole run shares, so that no scenario pays for a start-up of its own."""

from __future__ import annotations

from compat_tests.harness.client import Client
from compat_tests.harness.system import System


class Pool:
    """At most a few processes per library, by number; one that was lost is started again."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._clients: dict[tuple[str, int], Client] = {}

    def client(self, name: str, number: int = 0) -> Client:
        found = self._clients.get((name, number))
        if found is None or not found.agent.alive:
            log = self._system.directory / f"{name}-{number}.log"
            found = Client(name, self._system.address, log)
            self._clients[name, number] = found
        return found

    def end(self) -> None:
        for client in self._clients.values():
            client.agent.end()

    def log_tails(self, part_of: str) -> str:
        """The last words of the libraries that a test's name mentions."""
        return "\n".join(client.agent.log_tail() for client in self._clients.values() if client.name in part_of)
