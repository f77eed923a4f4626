"""`python -m deploy.demo.cluster`: three nodes, one of them is killed and comes back, and clients hardly notice.

Keeps: the demo ends by itself, and then nothing that it started is left, as with Ctrl-C.
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

from deploy.demo.cluster.servers import Cluster, Etcd
from deploy.demo.cluster.traffic import PARTITIONS, Leaders, Reader, Writer, create_topic
from deploy.demo.cluster.view import Look, line, picture
from deploy.demo.doors import OPEN, secured
from deploy.demo.playing import to_the_end
from deploy.demo.servers import CannotStart, Minio

NODES: Final = 3
LOOK_S: Final = 0.25
LINE_S: Final = 2.0
KILL_AT, BACK_AT, STOP_AT = 0.25, 0.6, 0.9
"""As parts of the whole time."""
SCENE_S_MAX: Final = 30.0
"""What should happen within seconds does not if it takes so long."""
GOES_ON_S: Final = 0.5

Show = Callable[[str, Look], None]


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=40.0, help="how long it is watched (default: 40)")
    parser.add_argument("--secured", action="store_true", help="with TLS, passwords and ACLs")
    given = parser.parse_args()
    console = Console()
    return to_the_end(console, lambda ends: play(console, ends, given.seconds, with_security=given.secured))


def play(console: Console, ends: contextlib.ExitStack, seconds: float, *, with_security: bool) -> None:
    """Start everything and run it; `ends` ends it all."""
    directory = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="penstock-demo-")))
    console.print("Starting etcd and MinIO ...")
    etcd, minio = Etcd(ends, directory), Minio(ends, directory)
    console.print(f"Starting {NODES} nodes of Penstock on them ...")
    doors = secured(directory) if with_security else OPEN
    cluster = Cluster(ends, directory, etcd, minio, NODES, doors)
    token = f" with the token in {doors.token_file}" if doors.token_file else ""
    console.print(
        f"Kafka clients: {cluster.bootstrap} ({doors.protocol})\n"
        f"Console of all nodes, at any of them: {' '.join(cluster.consoles.values())}{token}\n"
        f"Who has what: penstock cluster status --cluster {cluster.name}",
        soft_wrap=True,
    )
    create_topic(cluster.bootstrap, doors)
    writer, reader = Writer(cluster.bootstrap, doors), Reader(cluster.bootstrap, doors)
    ends.callback(reader.end)
    ends.callback(writer.end)
    with Live(console=console, auto_refresh=False) as live:
        show = drawn(live, writer, reader) if console.is_terminal else written(writer, reader)
        silence_s = run(Watch(cluster, writer, reader, Leaders(cluster.bootstrap, doors), show), seconds)
    console.print(
        f"{writer.records} records were acknowledged and {reader.records} read, {reader.missed} missed. "
        f"A node was killed, and no partition was silent for longer than {silence_s:.2f} s.",
        soft_wrap=True,
    )


class Watch:
    """Looks at everything, again and again."""

    def __init__(self, cluster: Cluster, writer: Writer, reader: Reader, leaders: Leaders, show: Show) -> None:
        self.cluster, self.writer, self.reader = cluster, writer, reader
        self._leaders, self._show = leaders, show
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def begin(self) -> None:
        """The time counts from now."""
        self._began = time.monotonic()

    def all_go_on(self) -> bool:
        """Has the producer heard of every partition since the clients were last asked to forget, and just now?"""
        return self.writer.silence.heard_of() == PARTITIONS and self.writer.silence.now_s() < GOES_ON_S

    def all_is_read(self) -> bool:
        return not self.writer.is_alive() and self.reader.records >= self.writer.records

    def until(self, done: Callable[[Look], bool], title: str) -> Look:
        while True:
            self.cluster.check()
            for client in (self.writer, self.reader):
                if client.error is not None:
                    raise client.error
            look = Look(self.seconds, self.cluster.addresses, frozenset(self.cluster.nodes), self._leaders.look())
            self._show(title, look)
            if done(look):
                return look
            time.sleep(LOOK_S)


def run(watch: Watch, seconds: float) -> float:
    """The scenes; tells for how long a partition was silent when its node was killed.

    Raises CannotStart if a scene does not come to its end.
    """
    cluster, writer, reader = watch.cluster, watch.writer, watch.reader
    watch.until(within(SCENE_S_MAX, are_shared, "not every node leads a partition"), "the nodes share the partitions")
    writer.start()
    reader.start()
    watch.begin()
    forget(watch)
    look = watch.until(lambda look: look.seconds >= seconds * KILL_AT, "every node leads some partitions")
    victim = max(look.addresses, key=look.led_by)
    forget(watch)
    cluster.kill(victim)
    go_on = within(SCENE_S_MAX, lambda _: watch.all_go_on(), f"partitions of node {victim} are silent")
    title = f"node {victim} was killed; the others take its partitions over"
    watch.until(lambda look: go_on(look) and look.seconds >= seconds * BACK_AT, title)
    silence_s = writer.silence.longest_s
    forget(watch)
    cluster.begin(victim)
    is_back = within(SCENE_S_MAX, are_shared, f"node {victim} has not come back")
    title = f"node {victim} begins again, and is given partitions"
    watch.until(lambda look: is_back(look) and look.seconds >= seconds * STOP_AT, title)
    writer.ending.set()
    has_all = within(SCENE_S_MAX, lambda _: watch.all_is_read(), "the consumer has not read everything")
    watch.until(lambda look: has_all(look) and look.seconds >= seconds, "the consumer reads the last records")
    watch.until(lambda _: True, "done")
    return silence_s


def forget(watch: Watch) -> None:
    for client in (watch.writer, watch.reader):
        client.silence.forget()


def are_shared(look: Look) -> bool:
    return all(look.led_by(node) for node in look.addresses)


def within(seconds: float, done: Callable[[Look], bool], otherwise: str) -> Callable[[Look], bool]:
    """`done`, which raises CannotStart if it is not in time, counted from now."""
    deadline = time.monotonic() + seconds

    def in_time(look: Look) -> bool:
        if done(look):
            return True
        if time.monotonic() > deadline:
            raise CannotStart(f"{otherwise} after {seconds:.0f} s")
        return False

    return in_time


def drawn(live: Live, writer: Writer, reader: Reader) -> Show:
    def show(title: str, look: Look) -> None:
        live.update(picture(title, look, writer, reader), refresh=True)

    return show


def written(writer: Writer, reader: Reader) -> Show:
    last = ""
    told_s = 0.0

    def show(title: str, look: Look) -> None:
        nonlocal last, told_s
        if title != last or time.monotonic() - told_s >= LINE_S:
            if title != last:
                print(title, flush=True)
            last, told_s = title, time.monotonic()
            print(line(look, writer, reader), flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
