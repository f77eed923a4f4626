"""The codec says what Kafka says: byte for byte what kio's writers write, for every message."""

import io
import random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.index import load_request_schema, load_response_schema
from kio.schema.index import api_key_map, schema_name_map
from kio.serial import entity_writer
from kio.static.constants import EntityType

from gateway.wire.codec import ELEMENTS_MAX, Codec, request_codec, response_codec
from gateway.wire.errors import MalformedRequest
from gateway.wire.primitives import Parts
from tests.gateway.wire.kio_values import as_mapping, instance, plain
from tests.gateway.wire.mutations import damaged, extremes

pytestmark = pytest.mark.slow

ADD_PARTITIONS_TO_TXN, WRITE_TXN_MARKERS = 24, 27
METADATA, OFFSET_FETCH, HEARTBEAT, API_VERSIONS, DESCRIBE_TOPIC_PARTITIONS, SHARE_FETCH = 3, 9, 12, 18, 75, 78


def messages(key: int) -> list[tuple[Codec, type[Any]]]:
    found: list[tuple[Codec, type[Any]]] = []
    for version, kinds in schema_name_map[api_key_map[key]].items():
        if EntityType.request in kinds:
            found.append((request_codec(key, version), load_request_schema(key, version)))
        if EntityType.response in kinds:
            found.append((response_codec(key, version), load_response_schema(key, version)))
    return found


@pytest.mark.parametrize("key", api_key_map, ids=list(api_key_map.values()))
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_agrees_with_kio(key: int, seed: int) -> None:
    """Our bytes are kio's bytes, and decoding kio's bytes gives the values back."""
    rng = random.Random(seed)
    for codec, entity in messages(key):
        value = instance(entity, rng)
        buffer = io.BytesIO()
        entity_writer(entity)(buffer, value)

        assert bytes(codec.encode(plain(value))) == buffer.getvalue(), codec
        assert as_mapping(codec.decode(buffer.getvalue())) == plain(value), codec


@pytest.mark.parametrize("key", api_key_map, ids=list(api_key_map.values()))
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_hostile_bytes(key: int, seed: int) -> None:
    """Whatever a count or length says, and wherever a request is damaged: a value or MalformedRequest."""
    rng = random.Random(seed)
    for version, kinds in schema_name_map[api_key_map[key]].items():
        if EntityType.request not in kinds:
            continue
        codec = request_codec(key, version)
        for body in (*extremes(key, version, rng), *(damaged(key, version, rng) for _ in range(10))):
            try:
                _, elements = codec.decode_counted(body)
            except MalformedRequest:
                continue
            assert elements <= len(body)


# --- Golden bytes: Kafka's own examples of each kind of field ---------------------------------------


@pytest.mark.parametrize(
    ("key", "version", "values", "raw"),
    [
        (API_VERSIONS, 0, {}, ""),
        (
            API_VERSIONS,
            3,
            {"client_software_name": "librdkafka", "client_software_version": "2.3.0"},
            "0b6c696272646b61666b6106322e332e3000",
        ),
        (METADATA, 0, {"topics": []}, "00000000"),
        (METADATA, 1, {"topics": None}, "ffffffff"),
        (METADATA, 9, {"topics": None}, "0001000000"),
        (HEARTBEAT, 0, {"group_id": "g", "generation_id": 7, "member_id": "m"}, "00016700000007" + "00016d"),
        (HEARTBEAT, 4, {"group_id": "g", "generation_id": 7, "member_id": "m"}, "026700000007" + "026d" + "0000"),
    ],
)
def test_golden(key: int, version: int, values: dict[str, Any], raw: str) -> None:
    """Bytes as Kafka's clients send them."""
    assert request_codec(key, version).encode(values).hex() == raw


# --- What a decoder refuses -------------------------------------------------------------------------


def refusal(codec: Codec, raw: str) -> MalformedRequest:
    with pytest.raises(MalformedRequest) as refused:
        codec.decode(bytes.fromhex(raw))
    return refused.value


@pytest.mark.parametrize(
    ("key", "version", "raw", "path", "position"),
    [
        pytest.param(METADATA, 0, "7fffffff", "topics", 4, id="count of 2**31 - 1"),
        pytest.param(METADATA, 0, "0000000300000000", "topics", 4, id="count over the bytes left"),
        pytest.param(METADATA, 0, "fffffffe", "topics", 4, id="count of -2"),
        pytest.param(METADATA, 0, "ffffffff", "topics", 4, id="null array"),
        pytest.param(METADATA, 9, "ffffffff0f", "topics", 5, id="compact count of 2**32 - 2"),
        pytest.param(METADATA, 9, "ffffffff1f", "topics", 0, id="varint over 32 bits"),
        pytest.param(METADATA, 9, "ffffffffff01", "topics", 0, id="varint of 6 bytes"),
        pytest.param(METADATA, 9, "ff", "topics", 0, id="varint cut short"),
        pytest.param(METADATA, 0, "0000000100056162", "topics.name", 6, id="string over the bytes left"),
        pytest.param(METADATA, 0, "00000001ffff", "topics.name", 6, id="null string"),
        pytest.param(METADATA, 0, "000000018000", "topics.name", 6, id="string of -32768 bytes"),
        pytest.param(METADATA, 0, "000000010002c328", "topics.name", 6, id="invalid UTF-8"),
        pytest.param(METADATA, 0, "000000010003eda080", "topics.name", 6, id="surrogate"),
        pytest.param(HEARTBEAT, 0, "0001670000", "generation_id", 3, id="cut in a number"),
        pytest.param(HEARTBEAT, 4, "026700000007026d00ff", "tags", 9, id="tag count over the bytes left"),
        pytest.param(HEARTBEAT, 4, "026700000007026d0001057f", "tags", 12, id="tag over the bytes"),
    ],
)
def test_refuses(key: int, version: int, raw: str, path: str, position: int) -> None:
    """Each way to be malformed is refused with the field's path and place."""
    refused = refusal(request_codec(key, version), raw)

    assert (refused.path, refused.position) == (path, position)


def test_ignores_what_follows() -> None:
    """Bytes behind a message are ignored, as Kafka does: librdkafka 2.16 sends three with Metadata v13."""
    codec = request_codec(HEARTBEAT, 0)

    assert codec.decode(bytes.fromhex("0001670000000700016dffffff")) == codec.decode(
        bytes.fromhex("0001670000000700016d")
    )


def test_bounds_elements() -> None:
    """However many bytes there are, no message has more elements than the bound."""
    codec = request_codec(OFFSET_FETCH, 7)
    partitions = list(range(ELEMENTS_MAX))
    values = {"group_id": "g", "topics": [{"name": "t", "partition_indexes": partitions}]}
    with pytest.raises(MalformedRequest, match="too many elements"):
        codec.decode(codec.encode(values))
    values["topics"][0]["partition_indexes"] = partitions[:-1]  # type: ignore[index]
    assert codec.decode_counted(codec.encode(values))[1] == ELEMENTS_MAX


# --- Tags, nulls, other versions --------------------------------------------------------------------


def test_unknown_tags_are_skipped() -> None:
    """A tag of a later Kafka does not disturb."""
    codec = request_codec(HEARTBEAT, 4)
    raw = bytes.fromhex("026700000007026d00020a03616263ff0700")

    assert codec.decode(raw) == codec.decode(bytes.fromhex("026700000007026d0000"))


def test_tagged_field_keeps_to_its_size() -> None:
    """A known tagged field that is shorter or longer than it declares is refused."""
    codec = response_codec(API_VERSIONS, 3)
    head = "00000100000000"
    good = codec.decode(bytes.fromhex(head + "0101080000000000000005"))
    assert good.finalized_features_epoch == 5

    assert refusal(codec, head + "01010700000000000005").path == "finalized_features_epoch"
    assert refusal(codec, head + "010109000000000000000500").path == "finalized_features_epoch"


def test_own_tagged_field() -> None:
    """What our nodes say beside Kafka's fields comes back, and is left out where nothing is said: then, and in versions
    without tags, the bytes are Kafka's."""
    topic = {"name": "t", "partition_indexes": [3]}
    marker = {"producer_id": 1, "producer_epoch": 2, "transaction_result": True, "topics": [topic]}
    kafkas = bytes(request_codec(WRITE_TXN_MARKERS, 2).encode({"markers": [marker]}))
    ours = {"markers": [marker | {"topics": [topic | {"topic_id": UUID(int=7)}]}]}
    codec = request_codec(WRITE_TXN_MARKERS, 2)

    assert codec.decode(kafkas).markers[0].topics[0].topic_id is None
    assert codec.decode(codec.encode(ours)).markers[0].topics[0].topic_id == UUID(int=7)
    assert bytes(codec.encode(ours)).replace(bytes.fromhex("01904e10") + UUID(int=7).bytes, b"\0") == kafkas
    older = request_codec(ADD_PARTITIONS_TO_TXN, 2)
    named = {"v3_and_below_topics": [{"name": "t", "partitions": [1], "topic_id": UUID(int=7)}]}
    assert older.decode(older.encode(named)).v3_and_below_topics[0].topic_id is None


def test_nullable_structure() -> None:
    """A nullable structure (KIP-893) is a marker, then the structure."""
    codec = request_codec(DESCRIBE_TOPIC_PARTITIONS, 0)
    for cursor in (None, {"topic_name": "t", "partition_index": 3}):
        values = {"topics": [{"name": "t"}], "response_partition_limit": 5, "cursor": cursor}

        assert as_mapping(codec.decode(codec.encode(values)))["cursor"] == cursor


def test_fields_of_other_versions() -> None:
    """A field that this version lacks is there with the default of the newest version that has it."""
    old = request_codec(METADATA, 0)
    message = old.decode(old.encode({"topics": [{"name": "t"}]}))

    assert message.allow_auto_topic_creation is True
    assert message.topics[0].topic_id is None
    fetch = request_codec(1, 4)
    assert fetch.decode(fetch.encode({})).replica_state.replica_id == -1
    assert fetch.decode(fetch.encode({})).forgotten_topics_data == []
    with pytest.raises(AttributeError, match="no version of metadata"):
        _ = message.allow_auto_topic_creations


def test_encoding_drops_unknown_and_defaults_missing() -> None:
    """One answer serves every version: fields that a version lacks are dropped, missing fields have defaults."""
    codec = response_codec(HEARTBEAT, 0)

    assert codec.encode({"error_code": 3, "throttle_time": 9, "nonsense": 1}) == b"\0\3"
    assert codec.encode({}) == b"\0\0"


def test_null_where_it_cannot_be() -> None:
    """Our own mistake is a TypeError, not bytes that a client chokes on."""
    with pytest.raises(TypeError):
        response_codec(METADATA, 1).encode({"topics": None})


def test_repr_hides_contents() -> None:
    """A request in a log line shows its subject, never the bytes that it carries."""
    codec = request_codec(0, 9)
    topics = [{"name": f"t{n}", "partition_data": [{"index": n, "records": b"secret"}]} for n in range(9)]

    shown = repr(codec.decode(codec.encode({"topic_data": topics})))

    assert "t0" in shown
    assert "secret" not in shown
    assert "<6 bytes>" in shown
    assert "9 in all" in shown


@pytest.mark.parametrize(("key", "version"), [(1, 4), (SHARE_FETCH, 2)])
def test_records_in_parts(key: int, version: int) -> None:
    """An answer that is made in parts has its records as they are, and the same bytes as one that is made whole."""
    parts = [memoryview(b"records"), memoryview(b" of a log")]
    codec = response_codec(key, version)

    def answer(records: object) -> dict[str, Any]:
        leader = {"leader_id": -1, "leader_epoch": -1}
        told = [{"partition_index": number, "records": records, "current_leader": leader} for number in range(2)]
        return {"responses": [{"topic": "t", "topic_id": UUID(int=7), "partitions": told}]}

    whole = bytes(codec.encode(answer(b"records of a log")))
    made = codec.encode_parts(answer(Parts(parts)))
    assert b"".join(made) == whole
    assert [part for part in made if any(part is one for one in parts)] == parts * 2
    assert bytes(codec.encode(answer(Parts(parts)))) == whole
    assert b"".join(codec.encode_parts(answer(Parts(parts).copied()))) == whole
    assert len(codec.encode_parts(answer(b"records of a log"))) == 1
