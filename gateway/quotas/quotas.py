"""The quotas in effect, their changes, and the rates of clients that have some.

Table `quotas`, a row for each value. Key: 1 (this format), then JSON in UTF-8: a list of the entity's parts, each
[kind, name or null], in the order of kinds, and the quota's name. Value: the limit as a big-endian double.

Keeps: a quota is in effect exactly if it is durable; a change of an entity is one record of the log, decided by the
quotas that are stored when it is made. A client without a
quota costs one look-up; without any quota not even that (`is_on`, and `is_timed` for the time of requests). No more
than `RATES_MAX` rates are kept, and as many buckets: those of clients that did nothing for a window go first, then all.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Final

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.cluster.registry import SettingChanges, Settings
from core.errors import StoreError
from core.store import Store
from gateway.quotas.buckets import Bucket
from gateway.quotas.limits import Limit, Parts, limit_of
from gateway.quotas.rates import SAMPLE_S, SAMPLES, Rate
from gateway.quotas.told import ToldPauses
from gateway.refusals import Refusal, refusal_of

logger = logging.getLogger(__name__)

TABLE: Final = "quotas"
FORMAT: Final = b"\x01"
PRODUCED, FETCHED = "producer_byte_rate", "consumer_byte_rate"
MUTATED: Final = "controller_mutation_rate"
TIME: Final = "request_percentage"
CONNECTED: Final = "connection_creation_rate"
KINDS: Final = (PRODUCED, FETCHED, MUTATED, TIME, CONNECTED)
ENTITIES_MAX: Final = 10_000
NAME_CHARS_MAX: Final = 1_000
RATES_MAX: Final = 20_000
KNOWN_MAX: Final = 20_000
"""Clients whose limit is remembered; beyond that all are forgotten."""
TIME_PAUSE_MS_MAX: Final = 1000
"""Longest pause for time, as in Kafka: a sample. A request that held the loop does not shut its client out for long."""
_VALUE: Final = struct.Struct(">d")

Place = tuple[str, str | None, str | None]
"""Whose rate: the quota, and user and client id, None for all of them together."""
Changes = Mapping[str, float | None]
"""Limits by quota; None takes one away."""


class Quotas:
    """See the module."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._by_quota: dict[str, dict[Parts, float]] = {}
        self._by_address: dict[str | None, int] = {}  # connections a second; None: of every other address
        self._known: dict[tuple[str, str, str], Limit | None] = {}
        self._rates: dict[Place, Rate] = {}
        self._buckets: dict[Place, Bucket] = {}
        self.told = ToldPauses(clock)
        self.pauses: dict[str, int] = dict.fromkeys((PRODUCED, FETCHED, MUTATED, TIME), 0)
        """How often a client had to pause, by quota."""
        self.take_over()

    def take_over(self) -> None:
        """Put the stored quotas into effect."""
        self._by_quota = {quota: {} for quota in KINDS}
        for key, value in self._store.registry.settings(TABLE).items():
            parts, quota = decode_key(key)
            self._by_quota.setdefault(quota, {})[parts] = _VALUE.unpack(value)[0]
        self._in_effect()

    def _in_effect(self) -> None:
        self._known.clear()
        self.told.forget()
        self.is_on = any(self._by_quota.values())
        self.is_timed = bool(self._by_quota[TIME])
        self._by_address = {}
        for parts, value in self._by_quota[CONNECTED].items():
            ((_, name),) = parts
            self._by_address[None if name is None else address_of(name)] = int(value)

    def __repr__(self) -> str:
        return f"<Quotas of {len(self.entities())} entities, {len(self._rates)} rates>"

    # --- Changes ------------------------------------------------------------------------------

    def entities(self) -> dict[Parts, dict[str, float]]:
        """All limits, by entity and quota."""
        found: dict[Parts, dict[str, float]] = {}
        for quota, values in self._by_quota.items():
            for parts, value in values.items():
                found.setdefault(parts, {})[quota] = value
        return found

    async def change(self, parts: Parts, changes: Changes) -> None:
        """Change an entity's limits in one durable step. Raises Refusal."""
        keys = {quota: encode_key(parts, quota) for quota in changes}

        def decide(stored: Settings) -> SettingChanges:
            if not _has_room(stored, parts):
                raise Refusal(ErrorCode.policy_violation, f"No more than {ENTITIES_MAX} entities have quotas.")
            if any(name is not None and len(name) > NAME_CHARS_MAX for _, name in parts):
                why = f"Names of entities have at most {NAME_CHARS_MAX} characters."
                raise Refusal(ErrorCode.policy_violation, why)
            rows = {keys[quota]: None if value is None else _VALUE.pack(value) for quota, value in changes.items()}
            return {key: value for key, value in rows.items() if stored.get(key) != value}

        try:
            changed = await self._store.registry.change_settings(TABLE, decide)
        except StoreError as failed:
            raise refusal_of(failed) from failed
        now = self._store.registry.settings(TABLE)  # with later changes of others, maybe
        self._take_over_some(
            parts, {quota: _VALUE.unpack(now[key])[0] if key in now else None for quota, key in keys.items()}
        )
        if changed:
            logger.info("quotas changed", extra={"entity": _shown(parts), "quotas": sorted(changes)})

    def _take_over_some(self, parts: Parts, limits: Changes) -> None:
        """Put some limits of an entity into effect."""
        if all(self._by_quota.get(quota, {}).get(parts) == value for quota, value in limits.items()):
            return
        for quota, value in limits.items():
            if value is None:
                self._by_quota.get(quota, {}).pop(parts, None)
            else:
                self._by_quota.setdefault(quota, {})[parts] = value
        self._in_effect()

    # --- Rates --------------------------------------------------------------------------------

    def count(self, quota: str, user: str, client_id: str | None, amount: float) -> int:
        """Count what a client did; returns how long it must pause, in ms."""
        found = self._rate(quota, user, client_id or "")
        if found is None:
            return 0
        limit, rate = found
        now_s = self._clock.monotonic_s()
        rate.add(amount, now_s)
        pause_ms = rate.pause_ms(limit.value, now_s)
        self.pauses[quota] += bool(pause_ms and amount)
        return pause_ms

    def most_at_once(self, quota: str, user: str, client_id: str | None) -> float | None:
        """The amount that fits into a window at the limit; None without one."""
        found = self._rate(quota, user, client_id or "")
        return None if found is None else found[0].value * (SAMPLES - 1) * SAMPLE_S

    def take_back(self, quota: str, user: str, client_id: str | None, amount: float) -> None:
        """What was counted last for a client was not done, because it must pause first."""
        found = self._rate(quota, user, client_id or "")
        if found is not None:
            found[1].take_back(amount)

    # --- Time of the event loop -----------------------------------------------------------------

    def spend(self, user: str, client_id: str | None, seconds: float) -> int:
        """Count the time that a client's requests held the loop; returns how long it must pause, in ms."""
        return min(self.count(TIME, user, client_id, seconds * 100), TIME_PAUSE_MS_MAX)

    def time_pause_ms(self, user: str, client_id: str | None, seconds: float) -> int:
        """How long a client must pause for the time that was counted so far and so many seconds, which are not yet."""
        found = self._rate(TIME, user, client_id or "")
        if found is None:
            return 0
        limit, rate = found
        return min(rate.pause_ms(limit.value, self._clock.monotonic_s(), seconds * 100), TIME_PAUSE_MS_MAX)

    # --- Connections ----------------------------------------------------------------------------

    def connections_per_s(self, host: str) -> int | None:
        """How many connections an address may make in a second; None without a bound."""
        known = self._by_address
        return known.get(host, known.get(None)) if known else None

    # --- Partitions that are made and deleted ---------------------------------------------------

    def owed_ms(self, user: str, client_id: str | None) -> int:
        """How long a client must pause before it may make or delete another partition."""
        found = self._bucket(user, client_id or "")
        return 0 if found is None else found[1].pause_ms(found[0].value, self._clock.monotonic_s())

    def take(self, user: str, client_id: str | None, partitions: int) -> int:
        """Count partitions that a client makes or deletes; returns how long it must pause, in ms."""
        found = self._bucket(user, client_id or "")
        if found is None:
            return 0
        limit, bucket = found
        now_s = self._clock.monotonic_s()
        bucket.take(partitions, limit.value, now_s)
        return bucket.pause_ms(limit.value, now_s)

    # --- Whose they are -------------------------------------------------------------------------

    def _limit(self, quota: str, user: str, client_id: str) -> Limit | None:
        key = (quota, user, client_id)
        try:
            return self._known[key]
        except KeyError:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            limit = self._known[key] = limit_of(self._by_quota[quota], user, client_id)
            return limit

    def _rate(self, quota: str, user: str, client_id: str) -> tuple[Limit, Rate] | None:
        limit = self._limit(quota, user, client_id)
        if limit is None:
            return None
        place = (quota, limit.user, limit.client_id)
        rate = self._rates.get(place)
        if rate is None:
            self._make_room(self._rates)
            rate = self._rates[place] = Rate()
        return limit, rate

    def _bucket(self, user: str, client_id: str) -> tuple[Limit, Bucket] | None:
        limit = self._limit(MUTATED, user, client_id)
        if limit is None:
            return None
        place = (MUTATED, limit.user, limit.client_id)
        bucket = self._buckets.get(place)
        if bucket is None:
            self._make_room(self._buckets)
            bucket = self._buckets[place] = Bucket()
        return limit, bucket

    def _make_room(self, kept: dict[Place, Rate] | dict[Place, Bucket]) -> None:
        if len(kept) < RATES_MAX:
            return
        now_s = self._clock.monotonic_s()
        for place in [place for place, one in kept.items() if one.is_idle(now_s)]:
            del kept[place]
        if len(kept) >= RATES_MAX:
            kept.clear()


def address_of(name: str) -> str:
    """The address in the form that sockets write. Raises ValueError."""
    return str(ip_address(name))


def encode_key(parts: Parts, quota: str) -> bytes:
    """The row's key."""
    return FORMAT + json.dumps([sorted(parts, key=lambda part: part[0]), quota], separators=(",", ":")).encode()


def _has_room(stored: Settings, parts: Parts) -> bool:
    """Whether an entity may have quotas: it has some, or there are few enough that have."""
    if any(encode_key(parts, quota) in stored for quota in KINDS):
        return True
    return len({key.rpartition(b",")[0] for key in stored}) < ENTITIES_MAX  # before the last comma are the parts


def decode_key(key: bytes) -> tuple[Parts, str]:
    """Entity and quota of a row."""
    parts, quota = json.loads(key.removeprefix(FORMAT))
    return frozenset((kind, name) for kind, name in parts), quota


def _shown(parts: Parts) -> Sequence[str]:
    named = sorted(parts, key=lambda part: part[0])
    return [f"{kind}={'<default>' if name is None else name[:100]}" for kind, name in named]
