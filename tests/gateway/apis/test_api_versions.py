"""ApiVersions, over a socket: every version, the ones that are not served, and the names of software."""

import struct

import pytest

from tests.gateway.network.harness import (
    HEARTBEAT,
    PRODUCE,
    Client,
    Gate,
    request,
    run,
    serving,
)

pytestmark = pytest.mark.slow

API_VERSIONS = 18


@pytest.mark.parametrize("version", range(5))
def test_api_versions(version: int) -> None:
    """Exactly the registered versions are advertised, except that Produce begins at 0."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            software = {"client_software_name": "apache-kafka-java", "client_software_version": "4.3.1"}
            client.send(request(API_VERSIONS, version, software, 5))
            correlation_id, answer = await client.answer(API_VERSIONS, version)

            assert (correlation_id, answer.error_code) == (5, 0)
            assert [(k.api_key, k.min_version, k.max_version) for k in answer.api_keys] == [
                (PRODUCE, 0, 13),
                (HEARTBEAT, 0, 4),
                (API_VERSIONS, 0, 4),
            ]
            assert {f.name for f in answer.finalized_features} <= {"metadata.version", "transaction.version"}

    run(test())


@pytest.mark.parametrize("version", [5, 99, 2**15 - 1, -1])
def test_api_versions_unsupported(version: int) -> None:
    """A version that we do not know, with whatever header and body, is answered in version 0's form."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            client.send(struct.pack(">ihhi", 20, API_VERSIONS, version, 42) + b"\xff" * 12)
            correlation_id, answer = await client.answer(API_VERSIONS, 0)

            assert (correlation_id, answer.error_code) == (42, 35)
            assert [(k.api_key, k.min_version, k.max_version) for k in answer.api_keys] == [(API_VERSIONS, 0, 4)]

            client.send(request(API_VERSIONS, 0, {}, 43))
            assert (await client.answer(API_VERSIONS, 0))[0] == 43

    run(test())


@pytest.mark.parametrize(("name", "version"), [("", "1"), ("a b", "1"), ("ok", "-1"), ("ok", ""), ("é", "1")])
def test_api_versions_bad_software(name: str, version: str) -> None:
    """A client whose name breaks the rules gets INVALID_REQUEST."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            software = {"client_software_name": name, "client_software_version": version}
            client.send(request(API_VERSIONS, 3, software))
            _, answer = await client.answer(API_VERSIONS, 3)

            assert (answer.error_code, answer.api_keys) == (42, [])

    run(test())
