"""The choice of who walks the records of a batch: the native extension where it is installed, else Python.

Keeps: both do the same, to the error's text, for any bytes; they differ in speed and in the number of records that are
opened. Tests ask for Python by the environment variable `PYTHON_WALKS_RECORDS`.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final, Protocol

from gateway.records import key_table, record_check
from gateway.records.key_table import Sifted
from gateway.records.record_check import ANY_TIME, Content, Records, Spend, Stamp, Timely

PYTHON_VARIABLE: Final = "PYTHON_WALKS_RECORDS"


class AreAsClaimed(Protocol):
    def __call__(self, batch: memoryview, count: int, newest_delta: int, with_keys: bool, /) -> bool:
        """As `record_check.are_as_claimed`."""


class CheckRecords(Protocol):
    def __call__(self, b: Content, count: int, spend: Spend, timely: Timely = ANY_TIME) -> Records:
        """As `record_check.check_records`."""


class Numbered(Protocol):
    def __call__(self, b: Content, count: int, spend: Spend) -> bytearray:
        """As `record_check.numbered`."""


class FindFirst(Protocol):
    def __call__(self, b: Content, count: int, spend: Spend, timestamp_min: int, offset_min: int) -> Stamp | None:
        """As `record_check.find_first`."""


class FindNewest(Protocol):
    def __call__(self, b: Content, count: int, spend: Spend, offset_min: int) -> Stamp | None:
        """As `record_check.find_newest`."""


class Shifted(Protocol):
    def __call__(self, content: Content, count: int, shift: int) -> bytearray:
        """As `key_table.shifted`."""


class KeyTable(Protocol):
    """As `key_table.KeyTable`."""

    def __init__(self, secret: bytes) -> None: ...
    def __len__(self) -> int: ...
    def learn(self, content: Content, count: int, offset_max: int, base: int) -> None: ...
    def sift(self, content: Content, count: int, offset_max: int, base: int, without_tombstones: bool) -> Sifted: ...


def _native() -> ModuleType | None:
    if os.environ.get(PYTHON_VARIABLE):
        return None
    try:
        from gateway.records import native_walk
    except ImportError:
        return None
    return native_walk


_chosen: Final = _native()
IS_NATIVE: Final = _chosen is not None
_checking: Final[ModuleType] = _chosen or record_check
_compacting: Final[ModuleType] = _chosen or key_table

AT_ONCE_BYTES_MAX: Final[int] = _checking.AT_ONCE_BYTES_MAX
RECORDS_PER_UNIT: Final[int] = _checking.RECORDS_PER_UNIT
are_as_claimed: Final[AreAsClaimed] = _checking.are_as_claimed
check_records: Final[CheckRecords] = _checking.check_records
numbered: Final[Numbered] = _checking.numbered
find_first: Final[FindFirst] = _checking.find_first
find_newest: Final[FindNewest] = _checking.find_newest
shifted: Final[Shifted] = _compacting.shifted
new_key_table: Final[type[KeyTable]] = _compacting.KeyTable


def validates_fully(record_validation: str) -> bool:
    """Whether `record.validation` has the records of every batch read."""
    return record_validation == "full" or (record_validation == "auto" and IS_NATIVE)
