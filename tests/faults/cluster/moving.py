"""Slots of a cluster's streams that are wanted elsewhere, by the rows in etcd that nodes go by: as an operator wants
them whose gateway has died."""

from __future__ import annotations

import json
import random
import time
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from core.cluster.etcd.wire import end_of
from core.cluster.etcd_keys import CONTAINERS as OWNERS
from core.cluster.etcd_keys import MOVES, STREAMS, prefix_of
from core.streams.state import decode_stream
from tests.faults.cluster.nodes import BUCKET, CONTAINERS, POLL_S, Nodes

STILL_S: Final = 90.0
"""What has not changed for so long will not end."""


@dataclass(frozen=True)
class Wanted:
    """A slot that is to leave `source`'s node for `target`."""

    stream: int
    slot: int
    source: int
    target: int

    @property
    def key(self) -> str:
        """Of its row, which is there until the move has ended."""
        return f"{MOVES.decode()}{self.stream:08x}/{self.slot}"


class Moving:
    """Moves of slots of some topics. `dice` choose."""

    def __init__(self, nodes: Nodes, dice: random.Random) -> None:
        self.nodes = nodes
        self._dice = dice
        self._prefix = prefix_of(BUCKET)

    def _below(self, prefix: bytes) -> dict[str, bytes]:
        start = self._prefix + prefix
        wanted = {"key": b64encode(start).decode(), "range_end": b64encode(end_of(start)).decode()}
        rows = self.nodes.ask_etcd("kv/range", wanted).get("kvs", [])
        return {b64decode(row["key"])[len(start) :].decode(): b64decode(row.get("value", "")) for row in rows}

    def rows(self) -> dict[str, bytes]:
        """All that moves change in etcd: what is wanted, whose the containers are, where the slots are."""
        changing = tuple(prefix.decode() for prefix in (MOVES, OWNERS, STREAMS))
        return {key: value for key, value in self._below(b"").items() if key.startswith(changing)}

    def owners(self) -> dict[int, int]:
        """The node of each container that is served."""
        rows = {int(container): json.loads(value) for container, value in self._below(OWNERS).items()}
        return {container: row["node"] for container, row in rows.items() if row["stage"] == "serving"}

    def containers(self, stream: int) -> list[int]:
        """The container of each slot of a stream."""
        state = decode_stream(self._below(STREAMS)[f"{stream:08x}"])
        return [state.container_of_slot(number) for number in range(state.slots)]

    def want(self, topics: Collection[str], source_node: int | None = None) -> Wanted | None:
        """Want a slot in another node's container; None if there is none to want just now."""
        owners = self.owners()
        states = [decode_stream(value) for value in self._below(STREAMS).values()]
        places = [
            (state.id, number, state.container_of_slot(number))
            for state in states
            if state.name in topics
            for number in range(state.slots)
        ]
        here = [
            one for one in places if owners.get(one[2]) == source_node or (source_node is None and one[2] in owners)
        ]
        if not here:
            return None
        stream, slot, source = self._dice.choice(here)
        others = [one for one in range(CONTAINERS) if owners.get(one, owners[source]) != owners[source]]
        if not others:
            return None
        target = self._dice.choice(others)
        wanted = Wanted(stream, slot, source, target)
        row = json.dumps({"v": 1, "target": target, "home": owners[target]}).encode()
        put = {"key": b64encode(self._prefix + wanted.key.encode()).decode(), "value": b64encode(row).decode()}
        self.nodes.ask_etcd("kv/put", put)
        return wanted

    def until_ended(self) -> None:
        """Until nothing is wanted any more. A move that is refused is an AssertionError."""
        progress = Progress(self)
        while wanted := {key: row for key, row in progress.look().items() if key.startswith(MOVES.decode())}:
            refused = {key: row for key, row in wanted.items() if json.loads(row).get("why")}
            assert not refused, f"refused: {refused}\n{self.nodes.log_tail()}"
            time.sleep(POLL_S)


class Progress:
    """What becomes of moves. On a busy machine they take long, and go on: rows come and go, containers change hands for
    them, streams get other segments."""

    def __init__(self, moving: Moving) -> None:
        self._moving = moving
        self._seen: dict[str, bytes] = {}
        self._patience = moving.nodes.patience(STILL_S)

    def look(self) -> dict[str, bytes]:
        """The rows as they are. Raises AssertionError once nothing has changed for `STILL_S`."""
        rows = self._moving.rows()
        if rows != self._seen:
            self._seen, self._patience = rows, self._moving.nodes.patience(STILL_S)
        assert not self._patience.is_over(), (
            f"nothing has changed for {self._patience}: {rows}\n{self._moving.nodes.log_tail()}"
        )
        return rows
