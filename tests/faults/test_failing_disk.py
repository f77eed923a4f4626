"""Writes and syncs that fail, and a disk that is full."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, Disconnected, Refused, encode_batch
from tests.faults.faultlayer import Faults, read_report
from tests.faults.gateway_process import EAGER, Ended, Gateway
from tests.faults.history import History, Value, Writer, check_history, read_outcome

EXIT_STORAGE: Final = 5
P: Final = ("poisoned", 0)
ATTEMPTS_MAX: Final = 400
VALUE_BYTES: Final = 100_000
"""Ten fill a log file."""
RETRIABLE: Final = {7, 19, 56, 89}
MOUNT_MIB: Final = 48
ROOM_SECONDS_MAX: Final = 60.0
TRIES: Final = 20


def write_one(connection: Connection, writer: Writer) -> int:
    """One record; the error code."""
    return write_to(connection, writer, P)


def write_to(connection: Connection, writer: Writer, place: tuple[str, int]) -> int:
    number, writer.sent = writer.sent, writer.sent + 1
    value = Value(writer.name, place[1], number).encode(VALUE_BYTES)
    produced = connection.produce(*place, encode_batch([value]))
    if produced.code == 0:
        writer.acknowledged[number] = produced.offset
    return produced.code


@pytest.mark.parametrize(
    ("call", "match", "error"),
    [
        ("fdatasync", "*.log", errno.EIO),
        ("fdatasync", "*.log", errno.ENOSPC),
        ("write", "*.log", errno.EIO),
        ("write", "*.log", errno.ENOSPC),
        ("rename", "*.log", errno.EIO),
        ("fdatasync", "*.prepared", errno.EIO),
    ],
)
@pytest.mark.parametrize("at", [3, 40])
def test_failed_write_is_final(tmp_path: Path, call: str, match: str, error: int, at: int) -> None:
    """The gateway ends with code 5; from then on only records on disk are acknowledged, nothing is synced again."""
    history = History()
    writer = history.writer("w", P, idempotent=False)
    if match != "*.log" or call == "rename":
        at = min(at, 3)  # once a log file
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.data.mkdir()
        report = tmp_path / "points"
        faults = Faults(gateway.data, (call,), match, at, errno=error, report=report)
        codes = write_until_failure(gateway, faults, writer)
        if codes is not None:
            assert gateway.await_end() == EXIT_STORAGE, gateway.last_output()
            assert set(codes) <= {0, *RETRIABLE}
        assert len(read_report(report)) == at, "the log was touched again after the failure"
        assert "failed" in gateway.last_output()

        gateway.start()
        with gateway.connect() as connection:
            if writer.acknowledged:
                assert check_history(history, read_outcome(connection, [P], history)) == []
        assert gateway.stop() == 0


def write_until_failure(gateway: Gateway, faults: Faults, writer: Writer) -> list[int] | None:
    """All answers' codes; None when it did not even start."""
    codes: list[int] = []
    try:
        gateway.start(faults.environment())
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1)
            codes += (write_one(connection, writer) for _ in range(ATTEMPTS_MAX))
    except Disconnected:
        return codes
    except Refused as refused:  # the topic already met it
        return [refused.code]
    except Ended as ended:
        if ended.code != EXIT_STORAGE:
            raise
        return None
    raise AssertionError("the failure was never met")


def test_failed_sync_reaches_the_producer(tmp_path: Path) -> None:
    """The producers whose records were in the failed group hear an error before the process ends."""
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.data.mkdir()
        gateway.start(Faults(gateway.data, ("fdatasync",), "*.log", 12, errno=errno.EIO).environment())
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1)
            codes: list[int] = []
            with pytest.raises(Disconnected):
                codes.extend(produce_codes(connection))
        assert gateway.await_end() == EXIT_STORAGE
    assert codes[-1] in RETRIABLE


def produce_codes(connection: Connection) -> Iterator[int]:
    for _ in range(ATTEMPTS_MAX):
        yield connection.produce(*P, encode_batch([b"x"])).code


# A real full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of MOUNT_MIB, mounted for this test."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_MIB}m", "penstock-test", str(mount)]
    subprocess.run(command, check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_full_disk(small_disk: Path) -> None:
    """Writes are refused with an error that clients try again on, reads are served, room lets writes go on."""
    history = History()
    writer = history.writer("w", P, idempotent=False)
    balloon = small_disk / "balloon"
    balloon.write_bytes(bytes(8 << 20))
    with Gateway(small_disk / "gateway", EAGER) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1)

            fill(connection, writer)
            assert check_history(history, read_outcome(connection, [P], history)) == []

            balloon.unlink()
            await_true(lambda: write_one(connection, writer) == 0, "room was made, writes go on")

            fill(connection, writer)
            last = max(offset for offset in writer.acknowledged.values() if offset is not None)
            connection.delete_records(*P, last - 3)
            await_true(lambda: write_one(connection, writer) == 0, "records were deleted, writes go on")
            assert check_history(history, read_outcome(connection, [P], history)) == []

            fill(connection, writer)
        assert gateway.stop() == 0
        make_room(small_disk)
        gateway.start()
        with gateway.connect() as connection:
            assert check_history(history, read_outcome(connection, [P], history)) == []


def test_killed_on_a_full_disk(small_disk: Path) -> None:
    """With no room at all a start ends with code 5 and says so; with room nothing is missing."""
    history = History()
    writer = history.writer("w", P, idempotent=False)
    with Gateway(small_disk / "gateway", EAGER) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1)
            fill(connection, writer)
        gateway.kill()
        blow_up(small_disk / "balloon")
        with pytest.raises(Ended) as ended:
            gateway.start()
        assert ended.value.code == EXIT_STORAGE, ended.value.output
        assert "disk space" in ended.value.output
        make_room(small_disk)
        gateway.start()
        with gateway.connect() as connection:
            assert check_history(history, read_outcome(connection, [P], history)) == []


def test_one_of_two_disks_is_full(tmp_path: Path, small_disk: Path) -> None:
    """Partitions on the full disk refuse writes with an error that clients try again on, and are read; those on the
    other disk go on. With room all go on."""
    partitions = 4
    places = [("two", number) for number in range(partitions)]
    history = History()
    writers = [history.writer(f"w{number}", place, idempotent=False) for number, place in enumerate(places)]
    disks = f"{tmp_path / 'gateway' / 'data'},{small_disk / 'data'}"
    with Gateway(tmp_path / "gateway", {**EAGER, "containers": 2, "data.dirs": disks}) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("two", partitions)
            refused: set[int] = set()
            for _ in range(2 * MOUNT_MIB * 1024 * 1024 // VALUE_BYTES):
                for number in set(range(partitions)) - refused:
                    if not is_taken(connection, writers[number], places[number]):
                        refused.add(number)
                if len(refused) == partitions // 2:
                    break
            assert len(refused) == partitions // 2
            for number in set(range(partitions)) - refused:
                for _ in range(50):
                    assert is_taken(connection, writers[number], places[number])
            assert check_history(history, read_outcome(connection, places, history)) == []
            make_room(small_disk)
            for number in refused:
                await_true(
                    lambda number=number: write_to(connection, writers[number], places[number]) == 0,  # type: ignore[misc]
                    "room was made, writes go on",
                )
        assert gateway.stop() == 0
        gateway.start()
        with gateway.connect() as connection:
            assert check_history(history, read_outcome(connection, places, history)) == []


def make_room(mount: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={MOUNT_MIB * 2}m", str(mount)], check=True)


def fill(connection: Connection, writer: Writer) -> None:
    """Write until it is refused."""
    for _ in range(MOUNT_MIB * 1024 * 1024 // VALUE_BYTES):
        if not is_taken(connection, writer, P):
            return
    raise AssertionError("more was taken than the disk holds")


def is_taken(connection: Connection, writer: Writer, place: tuple[str, int]) -> bool:
    """Whether a record is taken, at one of several tries: a log's next file may not be ready yet. Each refusal is an
    error that clients try again on."""
    for _ in range(TRIES):
        if not (code := write_to(connection, writer, place)):
            return True
        assert code in RETRIABLE
        time.sleep(0.05)
    return False


def blow_up(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as full:
                if full.errno != errno.ENOSPC:
                    raise


def await_true(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + ROOM_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"not so after {ROOM_SECONDS_MAX} s: {what}"
        time.sleep(0.05)
