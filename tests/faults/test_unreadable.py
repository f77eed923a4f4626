"""Sectors that the disk cannot read: they are named, end a start only where they must, and hurt nothing beside them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Final

import pytest

from core.index.rows import sidecar_path
from core.log.format import KIND_APPEND
from core.log.replay import SECTOR_BYTES
from tests.faults.client import encode_batch
from tests.faults.faultlayer import Faults
from tests.faults.gateway_process import EAGER, Ended, Gateway
from tests.faults.history import Value, read_partition
from tests.faults.questions import ask_everything
from tests.faults.script import log_files
from tests.faults.settings import SEED
from tests.faults.test_damage import CORRUPT_CODES, EXIT_CORRUPT, QUIET, frames_of
from tests.faults.tiered import QUICK, until

P: Final = ("hurt", 0)
VALUE_BYTES: Final = 30_000
RECORDS: Final = 60
IN_LOG: Final = {**EAGER, "tier2": "off"}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory after kill -9, with two log files and a part of a third."""
    directory = tmp_path_factory.mktemp("killed")
    with Gateway(directory, {**QUIET, "tier2": "off"}) as gateway:
        gateway.start()
        write(gateway)
    return directory / "data"


def write(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.create_topic(P[0], 1, {"retention.ms": "-1"})
        for number in range(RECORDS):
            batch = encode_batch([Value("w", 0, number).encode(VALUE_BYTES)], timestamp_ms=1_000_000 + number)
            assert connection.produce(*P, batch).code == 0


def copied(killed: Path, tmp_path: Path, settings: dict[str, object]) -> Gateway:
    gateway = Gateway(tmp_path, settings)
    shutil.copytree(killed, gateway.data, dirs_exist_ok=True)
    return gateway


def bad_sector(gateway: Gateway, path: Path, position: int) -> dict[str, str]:
    return Faults(gateway.data, match=f"*/{path.name}", sector=position).environment()


@pytest.mark.parametrize("place", ["header", "middle", "end", "room"])
def test_start_that_cannot_read_the_log(tmp_path: Path, killed: Path, place: str) -> None:
    """Exit 4, with file, position and LSN; nothing has changed, and all is there once the disk can read it."""
    with copied(killed, tmp_path, {**IN_LOG}) as gateway:
        newest = log_files(gateway.data)[-1]
        frames = frames_of(newest)
        frame = frames[len(frames) // 2 if place == "middle" else -1]
        position = {"header": 0, "room": frame.end + 5 * SECTOR_BYTES}.get(place, frame.position + SECTOR_BYTES)
        before = newest.read_bytes()

        with pytest.raises(Ended) as ended:
            gateway.start(bad_sector(gateway, newest, position))

        assert ended.value.code == EXIT_CORRUPT, ended.value.output
        assert f"{newest.name} at byte {position - position % SECTOR_BYTES}" in ended.value.output
        wanted = {"header": int(newest.stem), "room": frame.lsn + 1}.get(place, frame.lsn)
        assert f"LSN {wanted}" in ended.value.output
        assert "Traceback" not in ended.value.output
        assert newest.read_bytes() == before
        if place == "middle":
            gateway.start()
            with gateway.connect() as connection:
                _, entries = read_partition(connection, P)
                assert [value.number for _, value in entries] == list(range(RECORDS))


def test_start_that_cannot_read_an_index(tmp_path: Path, killed: Path) -> None:
    """A sidecar is built again from its log file, wherever its sector lies."""
    with copied(killed, tmp_path, {**IN_LOG}) as gateway:
        gateway.start()  # which leaves sidecars
        assert gateway.stop() == 0
        oldest = sidecar_path(log_files(gateway.data)[0])
        gateway.start(bad_sector(gateway, oldest, 0))
        with gateway.connect() as connection:
            assert len(read_partition(connection, P)[1]) == RECORDS
            assert ask_everything(connection, [P], random.Random(SEED)) == []


def test_read_that_meets_a_bad_sector(tmp_path: Path, killed: Path) -> None:
    """Only the unreadable entry of a complete file is refused: entries before and behind it are served."""
    with copied(killed, tmp_path, {**IN_LOG, "log.cache.bytes": 1 << 20}) as gateway:
        gateway.start()
        assert gateway.stop() == 0
        oldest = log_files(gateway.data)[0]
        frames = [frame for frame in frames_of(oldest) if frame.kind == KIND_APPEND and len(frame.body) > VALUE_BYTES]
        hurt = len(frames) // 2
        gateway.start(bad_sector(gateway, oldest, frames[hurt].position + 2 * SECTOR_BYTES))
        with gateway.connect() as connection:
            codes = [connection.fetch_some(*P, offset, VALUE_BYTES * 4).code for offset in range(len(frames))]
            assert [offset for offset, code in enumerate(codes) if code] == [hurt]
            assert codes[hurt] in CORRUPT_CODES
            assert connection.produce(*P, encode_batch([b"goes on"])).offset == RECORDS


def test_bad_sector_under_what_chunks_hold(tmp_path: Path) -> None:
    """Records that are also in long-term storage are read from there."""
    settings = {**QUICK, "tier2.verify.delay.ms": 3_600_000, "log.cache.bytes": 1 << 20}
    with Gateway(tmp_path, settings) as gateway:
        gateway.start()
        write(gateway)
        with gateway.connect() as connection:
            until(lambda: connection.tier_offset(*P, -5) >= RECORDS // 2, "half of it is in chunks")
        assert gateway.stop() == 0
        oldest = log_files(gateway.data)[0]
        hurt = [frame for frame in frames_of(oldest) if frame.kind == KIND_APPEND and len(frame.body) > VALUE_BYTES][1]
        gateway.start(bad_sector(gateway, oldest, hurt.position + 2 * SECTOR_BYTES))
        with gateway.connect() as connection:
            assert len(read_partition(connection, P)[1]) == RECORDS
            assert ask_everything(connection, [P], random.Random(SEED)) == []
        assert "cannot be read" in gateway.last_output(1_000)
