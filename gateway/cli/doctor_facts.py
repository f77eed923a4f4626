"""What was measured, and what it means: the words of `penstock doctor`.

Keeps: a fact is a plain value, measured once; a finding that is no `OK` says what to do.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.exits import ExitCode


class Level(enum.StrEnum):
    """How bad a finding is. `FAILURE`: the gateway does not start so, or data or clients are in danger."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice`: the remedy; empty if none is needed."""

    check: str
    level: Level
    what: str
    advice: str = ""

    def as_json(self) -> Mapping[str, str]:
        return {"check": self.check, "level": self.level.value, "what": self.what, "advice": self.advice}


def ok(check: str, what: str) -> Finding:
    return Finding(check, Level.OK, what)


def warning(check: str, what: str, advice: str) -> Finding:
    return Finding(check, Level.WARNING, what, advice)


def failure(check: str, what: str, advice: str) -> Finding:
    return Finding(check, Level.FAILURE, what, advice)


def exit_code(findings: Sequence[Finding]) -> ExitCode:
    """Clean only without failures; warnings alone are no failure."""
    failed = any(one.level is Level.FAILURE for one in findings)
    return ExitCode.UNEXPECTED if failed else ExitCode.CLEAN


@dataclass(frozen=True, slots=True)
class PortFacts:
    """An address to listen on. `error`: why it cannot be bound, empty if it can; `owner`: who listens, if known."""

    name: str
    address: str
    error: str = ""
    taken: bool = False
    owner: str | None = None
    is_our_gateway: bool = False


@dataclass(frozen=True, slots=True)
class AdvertisedFacts:
    """An address that clients are told. `error`: why it cannot be resolved or dialled. `dialled`: whether it was."""

    listener: str
    address: str
    resolved: Sequence[str] = ()
    dialled: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """A data directory. Sizes are bytes, times milliseconds."""

    path: str
    exists: bool
    usable: bool
    mode: int
    """Permission bits; 0o700 for a directory that is not there yet."""
    file_system: str
    free_bytes: int
    log_bytes: int
    """What its log takes now."""
    wanted_bytes: int
    """What its log may take, with the spare files."""
    sync_ms: Sequence[float]
    """Each small fdatasync; empty if none could be made."""
    locked_by: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """Descriptors that this process may have, connections that they leave room for, and those that are configured."""

    open_files_max: int
    connections: int
    connections_max: int


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Bytes that this process may use, and the bounds of the caches."""

    usable_bytes: int
    caches_bytes: int


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """Seconds. `ahead_of_files`: the machine's clock against the time that the file system gives a new file."""

    now_s: float
    newest_file_s: float
    ahead_of_files_s: float
    stepped_s: float
    """How far the clock moved away from the monotonic one while the doctor looked."""
    is_monotonic: bool


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """A try of long-term storage. `failed`: what went wrong, by operation; times are milliseconds."""

    place: str
    kind: str
    """`off`, `absent` (not made yet), `unusable` or `tried`."""
    owner: str = ""
    error: str = ""
    latency_ms: Mapping[str, float] | None = None
    failed: Mapping[str, str] | None = None
    winners: int = 1
    """How many of two racing conditional puts of one key succeeded."""
    left_behind: str = ""
    """A scratch object that could not be removed."""


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A member of etcd that was asked for the cluster. `error`: why it did not answer, or what it refused."""

    address: str
    took_ms: float = 0.0
    error: str = ""
    is_begun: bool = False
    """Whether the cluster is there."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The certificate of a TLS listener; times are seconds since 1970."""

    listener: str
    begins_s: float = 0.0
    ends_s: float = 0.0
    error: str = ""
