"""Hostile bytes against the real process, for every API and version that it serves.

The process runs under an address-space limit, so that believing one declared count kills it; and what
it holds in the end must be near what it held in the beginning.
"""

import asyncio
import random
import resource
import signal
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.apis import discover
from gateway.dispatch.registry import Api
from gateway.wire.codec import request_codec
from gateway.wire.headers import RequestHeader, encode_request_header
from tests.gateway.launching import Running
from tests.gateway.network.harness import Client, request
from tests.gateway.wire.mutations import DAMAGE, damaged, extremes

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
ADDRESS_SPACE_MAX = 4096 * MIB
"""RocksDB, threads and the log's mappings need far less; 2**31 elements need far more."""
GROWTH_MAX = 100 * MIB
"""Of resident memory: every schema's code, and one request of the most elements at a time."""
SENDERS = 12
ANSWER_S = 0.3
"""Long enough for an answer; requests that wait (JoinGroup, Fetch) are left alone after it."""
STOP_S = 60
DAMAGED_PER_VERSION = 8
API_VERSIONS = 18

APIS = list(discover())


class Process:
    """`penstock serve` with a limit, on a free port."""

    def __init__(self, directory: Path) -> None:
        arguments = ["--http", "off", "--listen", "127.0.0.1:0", "--set", "auto.create.topics.enable=false"]
        self.running = Running(directory, *arguments)
        self.child = self.running.process
        self.port = int(self.running.ready()["kafka"][0].rsplit(":", 1)[1])
        resource.prlimit(self.child.pid, resource.RLIMIT_AS, (ADDRESS_SPACE_MAX, ADDRESS_SPACE_MAX))

    def forget_peak(self) -> int:
        """Count the peak from here; the memory held now."""
        Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")
        return self.peak_bytes()

    def peak_bytes(self) -> int:
        """The most resident memory since the peak was last forgotten."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024

    def failures(self) -> list[str]:
        """Requests for which a handler had no answer: an unexpected exception is our mistake."""
        lines = self.running.err.read_text(errors="replace").splitlines()
        return [line[:2_000] for line in lines if " failed" in line or "unexpected error" in line]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("hostile"))
    yield process
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(STOP_S) == 0


async def throw(port: int, frames: Iterable[bytes]) -> None:
    """Send each frame, on a new connection whenever the last one was closed or does not answer."""
    waiting = iter(frames)

    async def sender() -> None:
        client: Client | None = None
        for frame in waiting:
            if client is None:
                client = await Client.connect(port)
            try:
                client.send(frame)
                await asyncio.wait_for(client.frame(), ANSWER_S)
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                client.close()
                client = None
        if client is not None:
            client.close()

    await asyncio.gather(*(sender() for _ in range(SENDERS)))
    client = await Client.connect(port)
    client.send(request(API_VERSIONS, 0, {}, 77))
    correlation_id, answer = await asyncio.wait_for(client.answer(API_VERSIONS, 0), 10)
    client.close()
    assert (correlation_id, answer.error_code) == (77, 0)


def framed(key: int, version: int, body: bytes) -> bytes:
    flexible = request_codec(key, version).flexible
    frame = encode_request_header(RequestHeader(key, version, 1, "hostile"), flexible) + body
    return struct.pack(">i", len(frame)) + frame


@pytest.mark.parametrize("api", APIS, ids=[api.name for api in APIS])
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_every_count_and_length(process: Process, api: Api, seed: int) -> None:
    """Each count and length at its extremes, and damage anywhere, in every version of every API:
    the process answers or closes, stays up, and stays small."""
    rng = random.Random(seed)
    before = process.forget_peak()
    frames = [
        framed(api.key, version, body)
        for version in api.versions
        for body in (
            *extremes(api.key, version, rng),
            *(damaged(api.key, version, rng) for _ in range(DAMAGED_PER_VERSION)),
        )
    ]
    asyncio.run(throw(process.port, frames))

    assert process.child.poll() is None
    assert process.failures() == []
    assert process.peak_bytes() - before < GROWTH_MAX


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_headers(process: Process, seed: int) -> None:
    """Damaged lengths and headers of every API, known or not, at every place."""
    rng = random.Random(seed)
    frames = []
    for api in APIS:
        good = framed(api.key, rng.choice(api.versions), b"")
        for position in rng.sample(range(len(good)), 6):
            frames.append(good[:position] + rng.choice(DAMAGE) + good[position + 1 :])
        key, version = rng.randrange(-(2**15), 2**15), rng.randrange(-(2**15), 2**15)
        frames.append(struct.pack(">ihhih", 10, key, api.versions[0], 1, -1))
        frames.append(struct.pack(">ihhih", 10, api.key, version, 1, -1))
        frames.append(rng.randbytes(rng.randrange(1, 60)))
    asyncio.run(throw(process.port, frames))

    assert process.child.poll() is None
    assert process.failures() == []


def test_many_large_promises(process: Process) -> None:
    """Two hundred connections that each declare the largest request hold next to nothing."""

    async def test() -> None:
        before = process.forget_peak()
        clients = [await Client.connect(process.port) for _ in range(200)]
        for client in clients:
            client.send(struct.pack(">ihhi", 100 * MIB, 0, 9, 1) + bytes(1_000))
        await throw(process.port, [])

        assert process.peak_bytes() - before < 40 * MIB
        for client in clients:
            client.close()

    asyncio.run(test())
