"""A partition that goes from container to container while clients write and read it.

Keeps: the test that begins the moves ends them; a move that is refused for good fails it.
"""

from __future__ import annotations

import itertools
import threading
from types import TracebackType
from typing import Final

from tests.gateway.http.calls import call

CONTAINERS: Final = 3


class Mover:
    """Moves a topic's first partition round its gateway's containers, one move after the other."""

    def __init__(self, http: str, topic: str, pause_s: float = 0.0) -> None:
        """`pause_s`: between two moves. While a partition moves it is not compacted."""
        self._http = http
        self._pause_s = pause_s
        self._topic = topic
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mover of {topic}", daemon=True)
        self.moved = 0
        self.problem: str | None = None

    def __enter__(self) -> Mover:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        assert self.problem is None, self.problem

    def _run(self) -> None:
        for container in itertools.cycle(range(CONTAINERS)):
            while not self._over.is_set():
                wanted = {"slot": 0, "container": container}
                status, _, told = call(self._http, "POST", f"/api/v1/streams/{self._topic}/move", wanted)
                if status == 200:
                    self.moved += told["state"] == "moved"
                    self._over.wait(self._pause_s)
                    break
                if status != 503:  # not yet
                    self.problem = f"{status}: {told}"
                    return
            else:
                return
