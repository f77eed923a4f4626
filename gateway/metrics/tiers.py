"""Numbers of the tiers for /metrics: the fill of the log, the moved bytes, the reads by tier.

Keeps: labels are container numbers, operations and words of our own code, never names of topics or keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from core.hosted import HostedContainer
from core.reading.reader import Served
from core.tiering.catalog import Catalog
from core.tiering.rows import ChunkState
from core.tiering.tier import Tier
from gateway.metrics.counters import Metrics

PENDING: Final = (ChunkState.INTENT, ChunkState.COMMITTED, ChunkState.DELETING, ChunkState.ABANDONED)


def offer_container(metrics: Metrics, hosted: HostedContainer) -> None:
    """Gauges and counters of one container."""
    container = hosted.container
    number = str(container.id)
    counters = hosted.reader.counters
    for tier, served in (("memory", counters.memory), ("log", counters.log), ("chunk", counters.chunk)):
        metrics.counter(
            "penstock_reads", "Reads, by the tier that served them", _reads(served), tier=tier, container=number
        )
        metrics.counter(
            "penstock_read_bytes", "Bytes read, by the tier that had them", _bytes(served), tier=tier, container=number
        )
    metrics.gauge("penstock_log_bytes", "Bytes in the durable log", lambda: container.log_bytes, container=number)
    limit = container.config.log_max_bytes
    metrics.gauge("penstock_log_limit_bytes", "Bound on the durable log", lambda: limit, container=number)
    if hosted.tier is not None:
        _offer_tier(metrics, hosted, hosted.tier, number)


def _reads(served: Served) -> Callable[[], float]:
    return lambda: served.reads


def _bytes(served: Served) -> Callable[[], float]:
    return lambda: served.bytes


def _offer_tier(metrics: Metrics, hosted: HostedContainer, tier: Tier, number: str) -> None:
    container, reader = hosted.container, tier.reader
    writer, snapshots, collector = tier.writer, tier.snapshots, tier.collector
    scrub = tier.scrub.counters
    began_s = container.clock.monotonic_s()

    def gauge(name: str, doc: str, read: Callable[[], float], **labels: str) -> None:
        metrics.gauge(f"penstock_tier2_{name}", doc, read, container=number, **labels)

    def counter(name: str, doc: str, read: Callable[[], float]) -> None:
        metrics.counter(f"penstock_tier2_{name}", doc, read, container=number)

    def age_s() -> float:
        taken_s = snapshots.counters.taken_s
        return container.clock.monotonic_s() - (began_s if taken_s is None else taken_s)

    def held_s() -> float:
        return container.throttle.held_s(container.clock.monotonic_s())

    pins = tier.pins

    def log_gauge(name: str, doc: str, read: Callable[[], float]) -> None:
        metrics.gauge(f"penstock_log_{name}", doc, read, container=number)

    log_gauge("kept_bytes", "Bytes that pinned the durable log and were moved aside", lambda: container.kept_bytes)
    log_gauge("held_bytes", "Bytes behind open transactions or damage, as of the last look", lambda: pins.bytes)
    log_gauge("holding_partitions", "Partitions that hold back something", lambda: pins.slots)
    log_gauge("refused_partitions", "Of those, refused while the log fills up", lambda: len(container.refused))
    log_gauge("damaged_bytes", "Bytes lost to damage in the log", lambda: sum(one.size for one in container.damage))
    gauge("untiered_bytes", "Bytes that are in no chunk, as of the last look", lambda: writer.untiered_bytes)
    gauge("uploads", "Chunks being uploaded", lambda: writer.uploading)
    gauge("throttle_seconds", "Time that a producer is held up", held_s)
    gauge("snapshot_age_seconds", "Time since the last metadata snapshot, or the start", age_s)
    gauge("full", "1 if long-term storage had no room for the last put", lambda: tier.is_full)
    for state in PENDING:
        gauge(
            "pending_chunks",
            "Chunks that are not settled, by state",
            _pending(hosted.catalog, state),
            state=state.name.lower(),
        )
    counter("chunks_put", "Chunks committed", lambda: writer.counters.chunks)
    counter("chunk_bytes_put", "Bytes of chunks committed", lambda: writer.counters.bytes)
    counter("chunks_put_again", "Chunks whose object had been lost", lambda: writer.counters.put_again)
    counter("put_failures", "Uploads of chunks that had to start over", lambda: writer.counters.failures)
    counter("objects_deleted", "Objects deleted", lambda: collector.deleted_objects)
    counter("deletion_failures", "Rounds of deletions that were not completed", lambda: collector.failures)
    counter("chunks_scrubbed", "Chunks that were read again to look for damage", lambda: scrub.chunks)
    counter("chunks_damaged", "Chunks that were damaged or gone when they were read again", lambda: scrub.damaged)
    counter("snapshots", "Metadata snapshots put", lambda: snapshots.counters.taken)
    counter(
        "snapshot_failures",
        "Metadata snapshots from which a recovery would not start",
        lambda: snapshots.counters.failures,
    )
    if (rewriter := tier.rewriter) is not None:
        counter("chunks_rewritten", "Chunks that were rewritten into newer ones", lambda: rewriter.counters.chunks_in)
        counter("rewritten_bytes", "Bytes of chunks made from older ones", lambda: rewriter.counters.bytes_out)
        counter("compactions", "Compactions of a slot", lambda: rewriter.counters.compactions)
    metrics.memory(f"chunk cache {number}", lambda: reader.used)
    counter("cache_hits", "Pages of chunks that were in memory", lambda: reader.counters.hits)
    counter("cache_loads", "Pages of chunks that were read from long-term storage", lambda: reader.counters.loads)
    counter("cache_disk_loads", "Pages of chunks that were read from disk", lambda: reader.counters.disk_loads)


def _pending(catalog: Catalog, state: ChunkState) -> Callable[[], float]:
    return lambda: sum(row.state is state for row in catalog.pending)
