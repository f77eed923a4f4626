"""From facts to findings.

Keeps: pure; no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final

from gateway.cli.doctor_facts import (
    AdvertisedFacts,
    CertificateFacts,
    ClockFacts,
    DirectoryFacts,
    Finding,
    LimitFacts,
    MemberFacts,
    MemoryFacts,
    PortFacts,
    StorageFacts,
    failure,
    ok,
    warning,
)
from gateway.cli.output import Size

SYNC_WARN_MS: Final = 20.0
"""The 99th percentile of a small fdatasync from which a disk is slow: every acknowledgement waits for one."""
MEMORY_WARN: Final = 0.6
"""Share of the memory that caches may take; the rest is for connections, requests and the operating system's cache."""
AHEAD_MAX_S: Final = 2.0
FUTURE_MAX_S: Final = 60.0
STEP_MAX_S: Final = 0.5
OLDEST_NOW_S: Final = 1_735_689_600.0
"""2025-01-01: a clock before it was never set."""
DAY_S: Final = 86_400.0
ENDS_SOON_DAYS: Final = 30
STORAGE_WARN_MS: Final = 1000.0
ETCD_WARN_MS: Final = 500.0
"""A lease has two seconds or more, and is renewed several times in that."""
REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "afs"})
PASSING: Final = frozenset({"tmpfs", "ramfs"})


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that this share of them does not exceed."""
    return sorted(samples)[max(0, ceil(len(samples) * share) - 1)]


def of_port(facts: PortFacts) -> Finding:
    check = f"port {facts.name}"
    if facts.is_our_gateway:
        return ok(check, f"{facts.address}: the gateway of this data directory listens there ({facts.owner})")
    if facts.taken:
        return failure(
            check,
            f"{facts.address} is taken by {facts.owner or 'another process'}",
            "end that process, or choose another address with --listen or --http",
        )
    if facts.error:
        return failure(check, f"{facts.address} cannot be bound: {facts.error}", "name an address of this machine")
    return ok(check, f"{facts.address} is free")


def of_advertised(facts: AdvertisedFacts) -> Finding:
    check = f"advertised {facts.listener}"
    if facts.error:
        return failure(
            check,
            f"{facts.address}: {facts.error}",
            "advertise what clients reach: --listen HOST:PORT=ADVERTISED_HOST[:PORT], and a name that DNS knows",
        )
    where = ", ".join(facts.resolved[:4])
    told = "clients can connect" if facts.dialled else "resolves; dialled only while a gateway runs"
    return ok(check, f"{facts.address} ({where}): {told}")


def of_directory(facts: DirectoryFacts) -> Iterator[Finding]:
    check = f"directory {facts.path}"
    if not facts.usable:
        yield failure(check, facts.error or "cannot be used", "give this user the rights to read and write there")
        return
    if facts.locked_by:
        yield ok(check, f"locked by {facts.locked_by}, a gateway that runs; checked beside it")
    else:
        yield ok(check, "can be used" if facts.exists else "is not there yet, and can be made")
    if facts.mode & 0o077:
        yield warning(
            f"rights {facts.path}",
            f"mode {facts.mode & 0o7777:04o}: other users of this machine may look at the records",
            f"chmod 700 {facts.path}",
        )
    else:
        yield ok(f"rights {facts.path}", f"mode {facts.mode & 0o7777:04o}")
    yield _room(facts)
    yield _file_system(facts)
    yield _syncs(facts)


def _room(facts: DirectoryFacts) -> Finding:
    check = f"room {facts.path}"
    missing = facts.wanted_bytes - facts.log_bytes
    free = f"{Size(facts.free_bytes)} free"
    if facts.free_bytes >= missing:
        return ok(check, f"{free}; the log may take {Size(max(0, missing))} more")
    advice = "make room, use a larger disk, or set log.max.bytes lower"
    if facts.free_bytes * 10 < missing:
        return failure(check, f"{free}, and the log may take {Size(missing)} more", advice)
    return warning(check, f"{free}, and the log may take {Size(missing)} more", advice)


def _file_system(facts: DirectoryFacts) -> Finding:
    check, kind = f"file system {facts.path}", facts.file_system
    if kind in PASSING:
        return warning(check, f"{kind} is memory: all data is lost with the machine", "use a directory on a disk")
    if kind in REMOTE or kind.startswith("fuse."):
        return warning(
            check, f"{kind} may acknowledge what it has not stored, and lose locks", "use a directory on a local disk"
        )
    if kind == "overlay":
        return warning(check, "a container's own layer, which is lost with the container", "mount a volume there")
    return ok(check, kind or "unknown")


def _syncs(facts: DirectoryFacts) -> Finding:
    check = f"sync {facts.path}"
    if not facts.sync_ms:
        return warning(check, facts.error or "could not be measured", "make room and see the rights of the directory")
    p50, p99 = percentile(facts.sync_ms, 0.5), percentile(facts.sync_ms, 0.99)
    what = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms of {len(facts.sync_ms)} small syncs"
    if p99 >= SYNC_WARN_MS:
        return warning(
            check,
            what,
            "use a faster disk, or one for the log alone: every acknowledgement waits for a sync; "
            "log.sync.mode=interval does not wait, and may lose the last records in a power cut",
        )
    return ok(check, what)


def of_limits(facts: LimitFacts) -> Finding:
    what = f"{facts.open_files_max} open files allow {facts.connections} of {facts.connections_max} connections"
    if facts.connections < facts.connections_max:
        return warning("open files", what, "raise the limit (ulimit -Hn, LimitNOFILE=), or set max.connections lower")
    return ok("open files", what)


def of_memory(facts: MemoryFacts) -> Finding:
    what = f"caches may take {Size(facts.caches_bytes)} of {Size(facts.usable_bytes)}"
    advice = "set log.cache.bytes and tier2.cache.bytes lower, or give the process more memory"
    if facts.caches_bytes >= facts.usable_bytes:
        return failure("memory", what, advice)
    if facts.caches_bytes > MEMORY_WARN * facts.usable_bytes:
        return warning("memory", what, advice)
    return ok("memory", what)


def of_clock(facts: ClockFacts) -> Finding:
    advice = "set the clock, and keep it right with NTP: retention and time stamps go by it"
    if facts.now_s < OLDEST_NOW_S:
        return failure("clock", "the clock was never set: it shows a time before 2025", advice)
    if not facts.is_monotonic:
        return failure("clock", "the monotonic clock went back", "restart the machine, and see its kernel's log")
    if (future := facts.newest_file_s - facts.now_s) > FUTURE_MAX_S:
        return warning("clock", f"a data file is of a time {future:.0f} s in the future: the clock went back", advice)
    if abs(facts.ahead_of_files_s) > AHEAD_MAX_S:
        return warning("clock", f"{facts.ahead_of_files_s:+.1f} s against the file system's clock", advice)
    if abs(facts.stepped_s) > STEP_MAX_S:
        return warning("clock", f"it moved by {facts.stepped_s:+.1f} s while it was watched", advice)
    return ok("clock", "agrees with the file system's, and runs evenly")


def of_storage(facts: StorageFacts) -> Iterator[Finding]:
    check = "long-term storage"
    if facts.kind == "off":
        yield warning(check, "tier2 = off: the log keeps everything on this disk", "name a place, with --tier2")
        return
    if facts.kind == "absent":
        yield ok(check, f"{facts.place}: not there yet, made by the first start")
        return
    if facts.kind == "unusable":
        yield failure(check, facts.error, "correct tier2, tier2.endpoint or the credentials; then run this again")
        return
    yield ok(f"{check} owner", f"{facts.place}: {facts.owner or 'no gateway has it yet'}")
    failed = facts.failed or {}
    for operation, why in failed.items():
        yield failure(f"{check} {operation}", why, f"allow {operation} below the prefix, and see the store's own log")
    if not {"put", "conditional put"} & set(failed):
        yield _conditional(check, facts.winners)
    if facts.left_behind:
        yield warning(check, f"the scratch object {facts.left_behind} could not be removed", "remove it by hand")
    yield from _latency(check, facts)


def _conditional(check: str, winners: int) -> Finding:
    if winners == 1:
        return ok(f"{check} conditional put", "of two that raced for one key, one won")
    return failure(
        f"{check} conditional put",
        f"of two that raced for one key, {winners} won",
        "use a store that obeys If-None-Match on PutObject: two gateways could own this prefix",
    )


def _latency(check: str, facts: StorageFacts) -> Iterator[Finding]:
    if not facts.latency_ms:
        return
    what = ", ".join(f"{name} {took:.0f} ms" for name, took in facts.latency_ms.items())
    if max(facts.latency_ms.values()) >= STORAGE_WARN_MS:
        yield warning(f"{check} latency", what, "use a store nearby, and see its load: chunks leave the log slowly")
    else:
        yield ok(f"{check} latency", what)


def of_etcd(members: Sequence[MemberFacts], cluster: str) -> Iterator[Finding]:
    """Of each member, and of the cluster; nothing where there is none."""
    answering = [one for one in members if not one.error]
    enough = len(answering) > len(members) // 2
    for one in members:
        check = f"etcd {one.address}"
        if one.error:
            kind = warning if enough else failure
            yield kind(check, one.error, "bring it back, or correct --cluster, the etcd. keys and its users' rights")
        elif one.took_ms >= ETCD_WARN_MS:
            late = f"answers after {one.took_ms:.0f} ms"
            yield warning(check, late, "see its disk and network: leases end, and containers move, where it is slow")
        else:
            yield ok(check, f"answers after {one.took_ms:.0f} ms")
    if members and not enough:
        why = f"{len(answering)} of {len(members)} members answer"
        yield failure("cluster", why, "without most of etcd no node serves anything for longer than its lease")
    elif members:
        there = "is in etcd" if any(one.is_begun for one in answering) else "is not there yet, made by the first node"
        yield ok("cluster", f"{cluster} {there}")


def of_certificate(facts: CertificateFacts, now_s: float) -> Finding:
    check = f"certificate {facts.listener}"
    if facts.error:
        keys = "etcd." if facts.listener == "etcd" else "ssl."
        return failure(check, facts.error, f"correct the {keys} keys of {facts.listener}; the files must be PEM")
    days = (facts.ends_s - now_s) / DAY_S
    if days <= 0:
        return failure(check, f"it ended {-days:.0f} days ago: clients refuse it", "renew it")
    if facts.begins_s > now_s:
        return failure(check, f"it begins in {(facts.begins_s - now_s) / DAY_S:.1f} days", "see the clock, or renew it")
    if days < ENDS_SOON_DAYS:
        return warning(check, f"it ends in {days:.0f} days", "renew it; a running gateway takes up changed files")
    return ok(check, f"it ends in {days:.0f} days")
