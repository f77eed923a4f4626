"""Damaged logs: a torn tail is cut, damage in what was acknowledged stops the start or the read, never goes unseen."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Final

import pytest

from core.log.format import FILE_HEADER_SIZE, Frame, decode_file_header, decode_frame
from tests.faults.client import encode_batch
from tests.faults.gateway_process import EAGER, Ended, Gateway
from tests.faults.history import Value, read_partition
from tests.faults.script import log_files
from tests.faults.settings import SEED, SOAK

EXIT_CORRUPT: Final = 4
RECORDS: Final = 8
P: Final = ("hurt", 0)
CORRUPT_CODES: Final = {2, 56}  # CORRUPT_MESSAGE, KAFKA_STORAGE_ERROR
QUIET: Final = {**EAGER, "checkpoint.interval.ms": 3_600_000}


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory after RECORDS records and kill -9, each acknowledged before the next was sent."""
    directory = tmp_path_factory.mktemp("crashed")
    with Gateway(directory, QUIET) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1)
            for number in range(RECORDS):
                connection.produce(*P, encode_batch([Value("w", 0, number).encode(60)]))
    return directory / "data"


def frames_of(path: Path) -> list[Frame]:
    data = memoryview(path.read_bytes())
    file_id = decode_file_header(data[:FILE_HEADER_SIZE]).file_id
    frames, position = [], FILE_HEADER_SIZE
    while int.from_bytes(data[position : position + 4], "little"):
        frames.append(decode_frame(data, position, file_id))
        position = frames[-1].end
    return frames


def again(tmp_path: Path, crashed: Path) -> tuple[Gateway, Path]:
    """A gateway on a copy, not started yet, and its newest log file."""
    gateway = Gateway(tmp_path, QUIET)
    shutil.copytree(crashed, gateway.data, dirs_exist_ok=True)
    return gateway, log_files(gateway.data)[-1]


def cuts() -> list[tuple[int, int]]:
    """The number of last frames hit, and the place in the first of them: every byte in a soak."""
    dice = random.Random(SEED)
    everywhere = [(frames, byte) for frames in (1, 2) for byte in range(200)]
    edges = [(1, 1), (1, 32), (2, 40)]
    return everywhere if SOAK else [*edges, *dice.sample(everywhere, 1)]


@pytest.mark.parametrize("rest", ["missing", "zero", "garbage"])
def test_torn_tail_is_cut(tmp_path: Path, crashed: Path, rest: str) -> None:
    """Wherever the end is torn, all before it is served, and writing goes on after it."""
    for count, byte in cuts():
        place = tmp_path / f"{count}-{byte}"
        gateway, log = again(place, crashed)
        position = frames_of(log)[-count].position + byte
        tear(log, position, rest)
        with gateway:
            gateway.start()
            with gateway.connect() as connection:
                _, entries = read_partition(connection, P)
                numbers = [value.number for _, value in entries]
                assert numbers == list(range(RECORDS - count)), f"cut {byte} into frame -{count}"
                assert connection.produce(*P, encode_batch([b"w/0/99/"])).offset == RECORDS - count
        shutil.rmtree(place)


def tear(log: Path, position: int, rest: str) -> None:
    """The bytes from the position on never reached the disk, or something else did."""
    whole = log.read_bytes()
    left = len(whole) - position
    garbage = random.Random(SEED).randbytes(min(left, 4096)).ljust(left, b"\0")
    log.write_bytes(whole[:position] + {"missing": b"", "zero": bytes(left), "garbage": garbage}[rest])


@pytest.mark.parametrize("back", [2, RECORDS])
@pytest.mark.parametrize("byte", [0, 9, 100])
def test_flipped_bit_stops_the_start(tmp_path: Path, crashed: Path, back: int, byte: int) -> None:
    """Damage before a position that a later frame reports as synced: exit 4, file and position named, no change."""
    gateway, log = again(tmp_path, crashed)
    position = frames_of(log)[-back].position
    flip(log, position + byte)
    damaged = log.read_bytes()

    with gateway, pytest.raises(Ended) as ended:
        gateway.start()

    assert ended.value.code == EXIT_CORRUPT, ended.value.output
    assert log.name in ended.value.output
    assert f"byte {position}" in ended.value.output
    assert log.read_bytes() == damaged


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def test_damaged_old_file_is_never_served(tmp_path: Path) -> None:
    """A start does not read old files again; a read of the damaged entry is refused, its neighbours are served."""
    value = Value("w", 0, 0).encode(50_000)
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1)
            for _ in range(60):
                assert connection.produce(*P, encode_batch([value])).code == 0
        assert gateway.stop() == 0
        flip(log_files(gateway.data)[0], 600_000)
        gateway.start()
        with gateway.connect() as connection:
            codes = [connection.fetch(*P, offset, max_bytes=1).code for offset in range(60)]
    hurt = [code for code in codes if code]
    assert len(hurt) == 1
    assert set(hurt) <= CORRUPT_CODES


def test_missing_log_file_stops_the_start(tmp_path: Path) -> None:
    """A gap between two log files is damage, not an end."""
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1)
            for _ in range(60):
                connection.produce(*P, encode_batch([bytes(50_000)]))
        gateway.kill()
        gone = log_files(gateway.data)[1]
        gone.unlink()
        gone.with_suffix(".idx").unlink(missing_ok=True)
        with pytest.raises(Ended) as ended:
            gateway.start()
    assert ended.value.code == EXIT_CORRUPT, ended.value.output


def test_cut_acknowledged_file_stops_the_start(tmp_path: Path, crashed: Path) -> None:
    """A log that ends before what the applied state reflects has lost its end."""
    with Gateway(tmp_path, EAGER) as gateway:
        shutil.copytree(crashed, gateway.data, dirs_exist_ok=True)
        gateway.start()
        assert gateway.stop() == 0
        for log in log_files(gateway.data):
            log.unlink()
        with pytest.raises(Ended) as ended:
            gateway.start()
    assert ended.value.code == EXIT_CORRUPT, ended.value.output
