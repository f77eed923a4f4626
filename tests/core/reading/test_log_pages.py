"""Pages of complete log files: read once, ahead of who reads on, and never more than the bound."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.log.files import log_path
from core.reading.log_pages import PAGE_BYTES, LogPages
from tests.core.support import DEADLINE_S

FILE = 7
SIZE = 5 * PAGE_BYTES + 12_345


class Disk:
    """A log file, and how often each of its pages was read."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content = random.Random(7).randbytes(SIZE)
        self.reads: Counter[int] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        log_path(directory, FILE).write_bytes(self.content)
        real = LogPages._read

        def read(pages: LogPages, key: tuple[int, int]) -> memoryview:
            self.reads[key[1]] += 1
            assert self.gate.wait(DEADLINE_S)
            return real(pages, key)

        monkeypatch.setattr(LogPages, "_read", read)

    def until_read(self, number: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not self.reads[number]:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


@pytest.fixture
def pages(tmp_path: Path, disk: Disk) -> Iterator[LogPages]:
    pages = LogPages(tmp_path, 16 * PAGE_BYTES)
    yield pages
    disk.gate.set()
    pages.close()


def test_any_stretch_is_what_the_file_holds(disk: Disk, pages: LogPages) -> None:
    """Within a page, across its border, up to the file's end and beyond it."""
    stretches = [(0, 10), (PAGE_BYTES - 3, 7), (PAGE_BYTES - 1, 2 * PAGE_BYTES), (SIZE - 5, 5), (SIZE - 5, 100)]
    rng = random.Random(1)
    stretches += [(rng.randrange(SIZE), rng.randrange(1, 300_000)) for _ in range(200)]
    for position, size in stretches:
        found = pages.bytes_at(FILE, position, size)
        assert found == disk.content[position : position + size]
        assert isinstance(found, bytes), "a view would keep its page alive"
    assert set(disk.reads.values()) == {1}


def test_many_readers_of_a_page_read_it_once(disk: Disk, pages: LogPages) -> None:
    disk.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(pages.bytes_at, FILE, 100, 50) for _ in range(4)]
        disk.until_read(0)
        disk.gate.set()
        assert {bytes(one.result(DEADLINE_S)) for one in found} == {disk.content[100:150]}
    assert disk.reads[0] == 1


def test_who_reads_on_finds_the_next_page(disk: Disk, pages: LogPages) -> None:
    """Begun when its predecessor is read; nothing is read ahead of somebody who jumps."""
    pages.bytes_at(FILE, 3 * PAGE_BYTES, 10)
    pages.bytes_at(FILE, 0, 10)
    disk.until_read(1)
    assert disk.reads == {3: 1, 0: 1, 1: 1}


def test_the_oldest_pages_leave(tmp_path: Path, disk: Disk) -> None:
    pages = LogPages(tmp_path, 2 * PAGE_BYTES)
    try:
        for number in (0, 2, 4, 1, 3, 0):
            pages.bytes_at(FILE, number * PAGE_BYTES, 1)
            assert pages.used <= 2 * PAGE_BYTES
        assert disk.reads[0] >= 2
    finally:
        pages.close()


def test_a_missing_file_is_said_to_everyone(pages: LogPages) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            pages.bytes_at(FILE + 1, 0, 10)
    assert pages.used == 0


def test_a_page_that_could_not_be_read_is_read_again(tmp_path: Path, disk: Disk, pages: LogPages) -> None:
    path = log_path(tmp_path, FILE)
    os.rename(path, tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        pages.bytes_at(FILE, 0, 10)
    os.rename(tmp_path / "away", path)
    assert bytes(pages.bytes_at(FILE, 0, 10)) == disk.content[:10]
