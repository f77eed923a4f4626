"""The faults of a server while a history is made: it is killed or paused, and Penstock's streams are scaled."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Final

from compat_tests.harness.system import READY_WITHIN_S, Penstock, System
from compat_tests.harness.waiting import until

PAUSE_S_MAX: Final = 2.0
HTTP_S: Final = 20.0
_TICK: Final = threading.Event()  # never set: waits are of random length by design

CONFLICT: Final = 409
UNAVAILABLE: Final = 503
APART: Final = "lie in several containers"


class Faults:
    """The faults that are asked for, as dice choose them; each returns when the server serves again."""

    def __init__(self, system: System, names: Sequence[str], dice: random.Random, topics: Sequence[str]) -> None:
        self._system, self._dice, self._topics = system, dice, topics
        known: dict[str, Callable[[], None]] = {
            "kill": self.kill,
            "kill_worker": self.kill_worker,
            "pause": self.pause,
            "scale": self.scale,
        }
        self._faults = [known[name] for name in names if name != "scale" or isinstance(system, Penstock)]
        self.done: dict[str, int] = {}

    @classmethod
    def on(cls, system: System, names: Sequence[str], seed: str) -> Callable[[Sequence[str]], Faults]:
        """What a workload makes its faults with."""
        return lambda topics: cls(system, names, random.Random(f"{seed}/faults"), topics)

    def strike(self) -> None:
        if self._faults:
            fault = self._dice.choice(self._faults)
            fault()
            self.done[fault.__name__] = self.done.get(fault.__name__, 0) + 1

    def kill(self) -> None:
        """Kafka is stopped instead: it does not promise what it acknowledged over kill -9."""
        if isinstance(self._system, Penstock):
            self._system.kill()
        else:
            self._system.stop()
        self._system.start()

    def kill_worker(self) -> None:
        """kill -9 of one of several workers; the supervisor starts it again, while the others serve."""
        assert isinstance(self._system, Penstock)
        victim = self._dice.choice(sorted(self._system.worker_pids()))
        os.kill(victim, signal.SIGKILL)
        until(
            lambda: self._is_replaced(victim),
            within_s=READY_WITHIN_S,
            what=f"another worker serves in place of {victim}",
        )

    def _is_replaced(self, victim: int) -> bool:
        assert isinstance(self._system, Penstock)
        pids = self._system.worker_pids()
        return victim not in pids and len(pids) == self._system.workers and self._system.serves_whole()

    def pause(self) -> None:
        """SIGSTOP of the server, or of one of its workers, for up to two seconds."""
        pids = self._system.worker_pids() if isinstance(self._system, Penstock) else [self._system.pid]
        pid = self._dice.choice(sorted(pids))
        os.kill(pid, signal.SIGSTOP)
        try:
            _TICK.wait(self._dice.random() * PAUSE_S_MAX)
        finally:
            os.kill(pid, signal.SIGCONT)

    def scale(self) -> None:
        """Split a segment, or make two neighbours one. What cannot be cut, or is in two containers, stays."""
        assert isinstance(self._system, Penstock)
        topic = self._dice.choice(self._topics)
        view = self._call("GET", topic)
        active = [s for s in view["epochs"][-1]["segments"] if s["state"] == "active"]
        active.sort(key=lambda segment: segment["key_range"])
        if len(active) > 1 and self._dice.random() < 0.5:
            at = self._dice.randrange(len(active) - 1)
            self._call("POST", f"{topic}/scale", {"merge": [active[at]["id"], active[at + 1]["id"]]})
        else:
            wide = [segment for segment in active if len(segment["slots"]) > 1]
            if wide:
                self._call("POST", f"{topic}/scale", {"split": {"segment": self._dice.choice(wide)["id"]}})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        assert isinstance(self._system, Penstock)
        address = self._system.http if "://" in self._system.http else f"http://{self._system.http}"
        request = urllib.request.Request(
            f"{address}/api/v1/streams/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        return until(lambda: self._answer(request), within_s=HTTP_S, what=f"{method} {path} is answered")

    @staticmethod
    def _answer(request: urllib.request.Request) -> Any:
        """None while nobody listens yet, just after a start."""
        try:
            with urllib.request.urlopen(request, timeout=HTTP_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            why = error.read().decode()
            if error.code == CONFLICT and APART in why:
                return {"refused": why}
            if error.code == UNAVAILABLE:  # a worker is away; a change that was made after all is as good as another
                return None if request.method == "GET" else {"refused": why}
            raise AssertionError(f"{request.full_url}: {error.code} {why}") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return None
            raise
