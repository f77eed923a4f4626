"""From facts to findings: what is fine, what warns, what fails; every finding that is not fine says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest

from gateway.cli import doctor_judgements as judgements
from gateway.cli.doctor_facts import (
    AdvertisedFacts,
    CertificateFacts,
    ClockFacts,
    DirectoryFacts,
    Finding,
    Level,
    LimitFacts,
    MemberFacts,
    MemoryFacts,
    PortFacts,
    StorageFacts,
    exit_code,
    failure,
    ok,
    warning,
)

GIB: Final = 1 << 30
DAY: Final = 86_400.0
NOW: Final = 1_800_000_000.0
DIRECTORY: Final = DirectoryFacts("/d", True, True, 0o700, "ext4", 100 * GIB, 0, 4 * GIB, [1.0] * 100)
CLOCK: Final = ClockFacts(NOW, NOW - 1, 0.0, 0.0, True)
STORAGE: Final = StorageFacts("s3://b", "tried", owner="owned by x", latency_ms={"put": 3.0}, failed={})


def worst(findings: Sequence[Finding]) -> Finding:
    """The worst one; a finding that is not fine must have a remedy, and a fine one needs none."""
    for one in findings:
        assert bool(one.advice) == (one.level is not Level.OK), one
    order = [Level.OK, Level.WARNING, Level.FAILURE]
    return max(findings, key=lambda one: order.index(one.level))


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok("a", "b")], 0),
        ([ok("a", "b"), warning("a", "b", "c")], 0),
        ([failure("a", "b", "c"), ok("a", "b")], 1),
    ],
)
def test_exit_code(findings: Sequence[Finding], code: int) -> None:
    """Only a failure makes the exit code other than 0."""
    assert exit_code(findings) == code


@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (PortFacts("P", "h:1"), Level.OK, "is free"),
        (PortFacts("P", "h:1", "in use", True, "pid 7 (redis)"), Level.FAILURE, "pid 7 (redis)"),
        (PortFacts("P", "h:1", "in use", True, None), Level.FAILURE, "another process"),
        (PortFacts("P", "h:1", "in use", True, "pid 7 (penstock)", True), Level.OK, "the gateway of this data"),
        (PortFacts("P", "h:1", "no such address"), Level.FAILURE, "cannot be bound"),
    ],
)
def test_port(facts: PortFacts, level: Level, said: str) -> None:
    """A port is free, its owner is named, or the reason why it cannot be bound."""
    found = worst([judgements.of_port(facts)])
    assert found.level is level
    assert said in found.what


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (AdvertisedFacts("P", "h:1", ["10.0.0.1"]), Level.OK),
        (AdvertisedFacts("P", "h:1", ["10.0.0.1"], True), Level.OK),
        (AdvertisedFacts("P", "h:1", error="the name does not resolve"), Level.FAILURE),
    ],
)
def test_advertised(facts: AdvertisedFacts, level: Level) -> None:
    """What clients are told must resolve, and answer where a gateway runs."""
    assert worst([judgements.of_advertised(facts)]).level is level


@pytest.mark.parametrize(
    ("change", "level", "check"),
    [
        ({}, Level.OK, ""),
        ({"exists": False}, Level.OK, ""),
        ({"locked_by": "process 7"}, Level.OK, ""),
        ({"usable": False}, Level.FAILURE, "directory"),
        ({"mode": 0o750}, Level.WARNING, "rights"),
        ({"mode": 0o701}, Level.WARNING, "rights"),
        ({"free_bytes": 4 * GIB}, Level.OK, ""),
        ({"free_bytes": 4 * GIB - 1}, Level.WARNING, "room"),
        ({"free_bytes": 1 * GIB, "log_bytes": 3 * GIB}, Level.OK, ""),
        ({"free_bytes": 0, "log_bytes": 5 * GIB}, Level.OK, ""),
        ({"free_bytes": GIB // 4}, Level.FAILURE, "room"),
        ({"file_system": "tmpfs"}, Level.WARNING, "file system"),
        ({"file_system": "nfs4"}, Level.WARNING, "file system"),
        ({"file_system": "fuse.sshfs"}, Level.WARNING, "file system"),
        ({"file_system": "overlay"}, Level.WARNING, "file system"),
        ({"file_system": ""}, Level.OK, ""),
        ({"sync_ms": []}, Level.WARNING, "sync"),
        ({"sync_ms": [1.0] * 99 + [500.0]}, Level.OK, ""),
        ({"sync_ms": [1.0] * 98 + [20.0] * 2}, Level.WARNING, "sync"),
        ({"sync_ms": [1.0] * 98 + [19.99] * 2}, Level.OK, ""),
    ],
)
def test_directory(change: dict[str, object], level: Level, check: str) -> None:
    """A directory: usable, private, with room for the whole log, on a disk of this machine, with fast syncs."""
    found = worst(list(judgements.of_directory(replace(DIRECTORY, **change))))  # type: ignore[arg-type]
    assert found.level is level
    assert found.check.startswith(check)


@pytest.mark.parametrize(("samples", "share", "value"), [([3.0], 0.99, 3.0), ([2.0, 1.0], 0.5, 1.0), ([1.0], 0.0, 1.0)])
def test_percentile(samples: list[float], share: float, value: float) -> None:
    """The smallest sample that the share does not exceed."""
    assert judgements.percentile(samples, share) == value


@pytest.mark.parametrize(("connections", "level"), [(100, Level.OK), (99, Level.WARNING)])
def test_limits(connections: int, level: Level) -> None:
    """Descriptors for all connections."""
    assert worst([judgements.of_limits(LimitFacts(1024, connections, 100))]).level is level


@pytest.mark.parametrize(("caches", "level"), [(60, Level.OK), (61, Level.WARNING), (100, Level.FAILURE)])
def test_memory(caches: int, level: Level) -> None:
    """Caches leave memory to the rest."""
    assert worst([judgements.of_memory(MemoryFacts(100, caches))]).level is level


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, Level.OK),
        ({"now_s": 0.0}, Level.FAILURE),
        ({"is_monotonic": False}, Level.FAILURE),
        ({"newest_file_s": NOW + 61}, Level.WARNING),
        ({"newest_file_s": NOW + 59}, Level.OK),
        ({"newest_file_s": 0.0}, Level.OK),
        ({"ahead_of_files_s": -3.0}, Level.WARNING),
        ({"ahead_of_files_s": 3.0}, Level.WARNING),
        ({"stepped_s": -1.0}, Level.WARNING),
    ],
)
def test_clock(change: dict[str, float], level: Level) -> None:
    """The clock is set, runs evenly and agrees with the files."""
    assert worst([judgements.of_clock(replace(CLOCK, **change))]).level is level  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "level", "check"),
    [
        ({}, Level.OK, ""),
        ({"kind": "off"}, Level.WARNING, ""),
        ({"kind": "absent"}, Level.OK, ""),
        ({"kind": "unusable", "error": "no answer"}, Level.FAILURE, ""),
        ({"winners": 2}, Level.FAILURE, "conditional put"),
        ({"winners": 0}, Level.FAILURE, "conditional put"),
        ({"failed": {"list": "denied"}}, Level.FAILURE, "list"),
        ({"failed": {"put": "denied"}, "winners": 0}, Level.FAILURE, "put"),
        ({"left_behind": "doctor/1/object"}, Level.WARNING, ""),
        ({"latency_ms": {"put": 1000.0}}, Level.WARNING, "latency"),
    ],
)
def test_storage(change: dict[str, object], level: Level, check: str) -> None:
    """Each operation of long-term storage; of two racing puts exactly one may win."""
    found = worst(list(judgements.of_storage(replace(STORAGE, **change))))  # type: ignore[arg-type]
    assert found.level is level
    assert check in found.check


@pytest.mark.parametrize(
    ("members", "levels"),
    [
        ([], []),
        ([MemberFacts("a", 3.0, is_begun=True)], ["ok", "ok"]),
        ([MemberFacts("a", 500.0)], ["warning", "ok"]),
        ([MemberFacts("a", 3.0), MemberFacts("b", 3.0), MemberFacts("c", error="away")], ["ok", "ok", "warning", "ok"]),
        ([MemberFacts("a", 3.0), MemberFacts("b", error="away")], ["ok", "failure", "failure"]),
        ([MemberFacts("a", error="permission denied")], ["failure", "failure"]),
    ],
)
def test_etcd(members: Sequence[MemberFacts], levels: Sequence[str]) -> None:
    """A member that is away is a warning while most of them answer; without most of them nothing goes on."""
    found = list(judgements.of_etcd(members, "etcd://a,b,c/orders"))
    worst(found or [ok("none", "none")])
    assert [one.level.value for one in found] == levels


@pytest.mark.parametrize(
    ("begins", "ends", "level"),
    [
        (-1, 31, Level.OK),
        (-1, 29, Level.WARNING),
        (-1, -1, Level.FAILURE),
        (-1, 0, Level.FAILURE),
        (1, 90, Level.FAILURE),
    ],
)
def test_certificate_dates(begins: int, ends: int, level: Level) -> None:
    """A certificate that has begun and does not end soon."""
    facts = CertificateFacts("SSL", NOW + begins * DAY, NOW + ends * DAY)
    assert worst([judgements.of_certificate(facts, NOW)]).level is level


def test_certificate_that_cannot_be_used() -> None:
    """What is wrong with key or certificate is told."""
    found = worst([judgements.of_certificate(CertificateFacts("SSL", error="its private key does not belong"), NOW)])
    assert (found.level, found.what) == (Level.FAILURE, "its private key does not belong")
