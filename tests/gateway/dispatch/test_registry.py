"""Exactly the registered APIs are served, and nothing is loaded before it is asked for...."""

import subprocess
import sys

import pytest
from kio.schema.index import api_key_map

from gateway.apis import discover
from gateway.dispatch.registry import Api, Registry
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.schema import versions_known

pytestmark = pytest.mark.slow

PRODUCE, METADATA = 0, 3
PRODUCE_WITH_TOPIC_IDS, METADATA_WITH_TOPIC_IDS = 13, 10
APIS = list(discover())


@pytest.mark.parametrize("api", APIS, ids=[api.name for api in APIS])
def test_every_registered_version_has_a_schema(api: Api) -> None:
    """Each version that is advertised can be decoded and answered, and the API has Kafka's name."""
    assert api.name.lower() == api_key_map[api.key].replace("_", "")
    known = versions_known(api.key)
    assert known.start <= api.versions.start < api.versions.stop <= known.stop
    for version in api.versions:
        assert request_codec(api.key, version).struct.name == f"{api.name}Request"
        answers = response_codec(api.key, version)
        assert answers.decode(answers.encode({})).schema_fields is not None


def test_topic_ids_come_with_metadata() -> None:
    """Produce by topic id needs Metadata that tells topic ids."""
    produce, metadata = discover().get(PRODUCE), discover().get(METADATA)

    assert produce is not None
    assert metadata is not None
    assert PRODUCE_WITH_TOPIC_IDS not in produce.versions or METADATA_WITH_TOPIC_IDS in metadata.versions


def test_loads_no_schema() -> None:
    """Finding every API imports no message schema: all of them take more than a second."""
    script = (
        "import sys; from gateway.apis import discover; assert len(discover()) > 0;"
        "print([m for m in sys.modules if m.startswith('kio.schema.') and '.v' in m and 'header' not in m])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"


async def nothing(*_: object) -> dict[str, object]:
    return {}


def test_a_key_is_served_once() -> None:
    """Two modules cannot claim the same API."""
    api = Api(key=1, name="Fetch", versions=range(4, 5), handle=nothing)

    with pytest.raises(ValueError, match="same key"):
        Registry([api, Api(key=1, name="Fetch", versions=range(5, 6), handle=nothing)])


@pytest.mark.parametrize("options", [{"versions": range(0)}, {"versions": range(0, 4, 2)}, {"handle": None}])
def test_an_api_is_whole(options: dict[str, object]) -> None:
    """An API has versions without gaps and exactly one handler."""
    with pytest.raises(ValueError, match="Fetch: "):
        Api(**{"key": 1, "name": "Fetch", "versions": range(4, 5), "handle": nothing, **options})  # type: ignore[arg-type]
