"""`python -m deploy.demo`: starts everything, shows a minute of it, leaves a consumer reading from the beginning.

Keeps: the demo ends all processes that it starts, by process id, and removes its directory, unless SIGKILL ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from deploy.demo.doors import OPEN, secured
from deploy.demo.gateway import Gateway
from deploy.demo.numbers import Numbers, Source
from deploy.demo.playing import to_the_end
from deploy.demo.servers import CannotStart, Minio
from deploy.demo.traffic import create_topic
from deploy.demo.view import Clients, line, picture

LOOK_S: Final = 0.5
LINE_S: Final = 2.0
CATCH_UP_AT: Final = 0.4
"""Start of the consumer that reads from the beginning, as a part of the whole time."""
LAST_ROUND_S_MAX: Final = 120.0
WORKERS_MAX: Final = 8
"""More would not fit beside MinIO and the clients on one machine."""

Show = Callable[[str, Numbers, Numbers, float, float], None]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long records are produced (default: 60)")
    parser.add_argument(
        "--exit", action="store_true", help="end when the consumer has read everything, instead of waiting for Ctrl-C"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that Penstock serves with (default: 1)")
    parser.add_argument("--secured", action="store_true", help="with TLS, passwords and ACLs")
    given = parser.parse_args()
    if not 1 <= given.workers <= WORKERS_MAX:
        parser.error(f"--workers: between 1 and {WORKERS_MAX}")
    return given


def main() -> int:
    given = arguments()
    console = Console()
    return to_the_end(console, lambda ends: play(console, ends, given))


def play(console: Console, ends: contextlib.ExitStack, given: argparse.Namespace) -> None:
    """Start everything and run it; `ends` ends it all."""
    directory = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="penstock-demo-")))
    console.print("Starting MinIO ...")
    minio = Minio(ends, directory)
    console.print("Starting Penstock on it ...")
    doors = secured(directory) if given.secured else OPEN
    gateway = Gateway(ends, directory, minio, given.workers, doors)
    servers = ",".join(gateway.kafka)
    token = f" with the token in {doors.token_file}" if doors.token_file else ""
    console.print(
        f"Kafka clients: {servers} ({doors.protocol})   console: {doors.scheme}://{gateway.http}/{token}",
        soft_wrap=True,
    )
    create_topic(servers, doors)
    clients = Clients(servers, doors)
    ends.callback(clients.end)
    run(console, Source(gateway.kafka, gateway.http, minio, doors), clients, given.seconds, given.exit)


def run(console: Console, source: Source, clients: Clients, seconds: float, leave: bool) -> None:
    """Produce for `seconds`, then let the consumer read from the beginning until it has all, or for ever."""
    clients.producer.start()
    clients.tail.start()
    with contextlib.ExitStack() as screen:
        show = drawn(screen.enter_context(Live(console=console, auto_refresh=False)), clients)
        if not console.is_terminal:
            show = written(clients)
        watch = Watch(source, clients, show)
        watch.until(lambda: watch.seconds >= seconds * CATCH_UP_AT, "records move from the log to MinIO")
        clients.beginning.start()
        watch.until(lambda: watch.seconds >= seconds, "a consumer reads them from the beginning")
        clients.producer.end()
        rounds = clients.beginning.rounds + 1  # the one that is under way may have begun before the last record
        deadline = time.monotonic() + LAST_ROUND_S_MAX

        def has_all() -> bool:
            if not leave:
                return False
            if time.monotonic() > deadline:
                raise CannotStart(f"the consumer has not read everything in {LAST_ROUND_S_MAX:.0f} s")
            return clients.beginning.rounds > rounds

        watch.until(has_all, "nothing new; the consumer goes on reading. Ctrl-C ends the demo")
        watch.look("done")


class Watch:
    """Looks at everything, again and again."""

    def __init__(self, source: Source, clients: Clients, show: Show) -> None:
        self._source, self._clients, self._show = source, clients, show
        self._began = self._looked = time.monotonic()
        self._before = source.look()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def until(self, done: Callable[[], bool], title: str) -> None:
        while not done():
            time.sleep(LOOK_S)
            self.look(title)

    def look(self, title: str) -> None:
        self._clients.check()
        now, numbers = time.monotonic(), self._source.look()
        self._show(title, numbers, self._before, now - self._looked, self.seconds)
        self._looked, self._before = now, numbers


def drawn(live: Live, clients: Clients) -> Show:
    def show(title: str, numbers: Numbers, before: Numbers, passed: float, seconds: float) -> None:
        live.update(picture(f"{seconds:.0f} s: {title}", numbers, before, passed, clients), refresh=True)

    return show


def written(clients: Clients) -> Show:
    last = -LINE_S

    def show(title: str, numbers: Numbers, before: Numbers, passed: float, seconds: float) -> None:
        nonlocal last
        if seconds - last >= LINE_S or title == "done":
            last = seconds
            print(line(seconds, numbers, clients), flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
