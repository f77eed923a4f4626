"""Any well-formed request is answered, whatever its values, and never with UNKNOWN_SERVER_ERROR."""

from __future__ import annotations

import random
from typing import Any, Final
from uuid import UUID

import pytest

from gateway.apis import discover
from gateway.wire.codec import request_codec
from gateway.wire.schema import FieldSpec, StructSpec
from tests.gateway.apis.harness import KEYS, NOW, Admin
from tests.gateway.apis.test_error_responses import codes

pytestmark = pytest.mark.slow

SEED: Final = 20_250_101
REQUESTS_EACH: Final = 25

ELSEWHERE: Final = frozenset(
    (
        *("ApiVersions", "DeleteGroups", "DescribeGroups", "FindCoordinator", "Heartbeat", "JoinGroup", "LeaveGroup"),
        *("ListGroups", "OffsetCommit", "OffsetDelete", "OffsetFetch", "SyncGroup"),
        *("AddOffsetsToTxn", "AddPartitionsToTxn", "DescribeProducers", "DescribeTransactions", "EndTxn"),
        *("ListTransactions", "TxnOffsetCommit", "WriteTxnMarkers"),
    )
)
"""APIs of groups and transactions, which wait for others, and ApiVersions: their own suites know what to ask."""
ASKED: Final = {api.name: api for api in discover() if api.handle is not None and api.name not in ELSEWHERE}

BITS: Final = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "timedelta_i32": 32, "timedelta_i64": 64}
NAMES: Final = ("known", "", ".", "known_", "1", "cleanup.policy", "retention.ms", "log.retention.ms", "-1", "ä" * 200)


def some_value(chance: random.Random, field: FieldSpec) -> Any:
    if field.nullable and not chance.randrange(4):
        return None
    if field.is_array:
        return [some_element(chance, field) for _ in range(chance.randrange(3))]
    return some_element(chance, field)


def some_element(chance: random.Random, field: FieldSpec) -> Any:
    if field.struct is not None:
        return some_request(chance, field.struct)
    if field.kind == "string":
        return chance.choice(NAMES)
    if field.kind == "bool":
        return chance.random() < 0.5
    if field.kind == "float64":
        return chance.choice([0.0, -0.5, 1.0, 1e300, float("inf"), float("nan")])
    if field.kind == "bytes":
        return chance.choice([b"", b"x" * 40])
    if field.kind == "uuid":
        return UUID(int=chance.getrandbits(128))
    if field.kind == "uint16":
        return chance.choice([0, 1, 2**16 - 1])
    limit = 1 << BITS[field.kind] - 1
    small = chance.choice([-6, -2, -1, 0, 1, 2, 3, 4, 8, 16, 32])
    return chance.choice([small, small, small, limit - 1, -limit, min(NOW, limit - 1)])


def some_request(chance: random.Random, struct: StructSpec) -> dict[str, Any]:
    return {field.name: some_value(chance, field) for field in struct.fields}


@pytest.mark.parametrize("api", sorted(ASKED))
def test_answered(admin: Admin, api: str) -> None:
    """Extreme numbers, odd names, nulls and repeats are answered in every version."""
    chance = random.Random(f"{SEED} {api}")
    if admin.broker.topics.get("known") is None:
        admin.create(3, name="known")
        admin.produce("known", NOW, NOW + 5)
    for version in ASKED[api].versions:
        struct = request_codec(KEYS[api], version).struct
        for _ in range(REQUESTS_EACH):
            request = some_request(chance, struct)
            answer = admin.ask(api, version, **request)
            assert -1 not in codes(answer), f"seed {SEED}: {api} v{version} {request}"
