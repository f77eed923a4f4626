"""The numbers of the demo, from their sources: the gateway's /metrics, ListOffsets, the bucket's listing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import minio
from prometheus_client.parser import text_string_to_metric_families

from deploy.demo.doors import Doors, asked
from deploy.demo.servers import BUCKET, Minio
from deploy.demo.traffic import PARTITIONS, TOPIC
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header

LIST_OFFSETS: Final = 2
VERSION: Final = 9  # the first that knows all four borders
LATEST, EARLIEST, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -4, -5
TIERS: Final = ("memory", "log", "chunk")
CHUNKS: Final = "/chunks/"


@dataclass(frozen=True, slots=True)
class Borders:
    """A partition's offsets: chunks hold [start, tiered), the log [local, end)."""

    start: int
    local: int
    tiered: int
    end: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """One look at everything."""

    partitions: Sequence[Borders]
    log_bytes: float
    chunks_put: float
    chunks_rewritten: float
    served: dict[str, float] = field(default_factory=dict)  # bytes, by tier
    objects: int = 0
    object_bytes: int = 0
    segments: int = 0  # active ones
    scales: int = 0
    last_scale: str = ""  # its reason

    @property
    def only_in_chunks(self) -> int:
        """Records that are no longer in the log."""
        return sum(one.local - one.start for one in self.partitions)

    @property
    def records(self) -> int:
        return sum(one.end - one.start for one in self.partitions)


class Source:
    """Reads the numbers from their sources."""

    def __init__(self, kafka: Sequence[str], http: str, storage: Minio, doors: Doors) -> None:
        self._kafka, self._http, self._doors = kafka, http, doors
        self._bucket = minio.Minio(
            storage.endpoint.removeprefix("http://"), storage.access_key, storage.secret_key, secure=False
        )

    def look(self) -> Numbers:
        metrics = self._metrics()
        epochs = self._stream()["epochs"]
        sizes = [
            one.size or 0 for one in self._bucket.list_objects(BUCKET, recursive=True) if CHUNKS in str(one.object_name)
        ]
        return Numbers(
            partitions=self._borders(),
            log_bytes=metrics.get("penstock_log_bytes", 0),
            chunks_put=metrics.get("penstock_tier2_chunks_put_total", 0),
            chunks_rewritten=metrics.get("penstock_tier2_chunks_rewritten_total", 0),
            served={tier: metrics.get(f"penstock_read_bytes_total {tier}", 0) for tier in TIERS},
            objects=len(sizes),
            object_bytes=sum(sizes),
            segments=len(epochs[-1]["segments"]),
            scales=len(epochs) - 1,
            last_scale=epochs[-1]["reason"],
        )

    def _metrics(self) -> dict[str, float]:
        """Metrics by name, with their tier if they have one; summed over containers."""
        text = self._doors.get(self._http, "/metrics").decode()
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = " ".join(filter(None, (sample.name, sample.labels.get("tier"))))
                values[name] = values.get(name, 0) + sample.value
        return values

    def _stream(self) -> dict[str, Any]:
        stream: dict[str, Any] = json.loads(self._doors.get(self._http, f"/api/v1/streams/{TOPIC}"))
        return stream

    def _borders(self) -> list[Borders]:
        # The earliest border first: moves meanwhile make the later ones larger, never smaller.
        start, local, tiered, end = (self._offsets(at) for at in (EARLIEST, EARLIEST_LOCAL, LATEST_TIERED, LATEST))
        return [Borders(start[p], local[p], tiered[p] + 1, end[p]) for p in range(PARTITIONS)]

    def _offsets(self, timestamp: int) -> list[int]:
        """The offset of each partition. Each node is asked for all: it answers for those that it leads."""
        found = dict(one for server in self._kafka for one in self._asked(server, timestamp))
        return [found[p] for p in range(PARTITIONS)]

    def _asked(self, server: str, timestamp: int) -> Iterator[tuple[int, int]]:
        """Partitions that a node leads, and their offsets."""
        wanted = [{"partition_index": p, "current_leader_epoch": -1, "timestamp": timestamp} for p in range(PARTITIONS)]
        body = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": TOPIC, "partitions": wanted}]}
        codec = request_codec(LIST_OFFSETS, VERSION)
        header = RequestHeader(LIST_OFFSETS, VERSION, 1, "demo")
        frame = encode_request_header(header, codec.flexible) + bytes(codec.encode(body))
        with self._doors.entered(server) as connection:
            answer = asked(connection, frame)
        found = response_codec(LIST_OFFSETS, VERSION).decode(memoryview(answer), 5)
        return ((one.partition_index, one.offset) for one in found.topics[0].partitions if not one.error_code)
