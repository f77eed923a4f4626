"""Every library reads the records of every other: one topic per codec, written by all, read by all."""

from __future__ import annotations

import pytest

from compat_tests.harness.client import CLIENTS
from compat_tests.harness.pool import Pool
from compat_tests.harness.records import Record
from compat_tests.scenarios import CODECS


@pytest.mark.parametrize("codec", CODECS)
def test_every_library_reads_every_other(pool: Pool, codec: str) -> None:
    """Batches of five libraries in one partition come out alike in all five, keys and headers too."""
    topic = f"interop-{codec}"
    clients = [pool.client(name) for name in CLIENTS]
    clients[0].create_topic(topic, 1)
    expected = []
    for client in clients:
        sent = [
            Record(
                key=f"{client.name} {n}".encode(),
                value=bytes(range(256)) * (n + 1),
                headers=(("by", client.name.encode()),),
                partition=0,
            )
            for n in range(20)
        ]
        client.write(topic, *sent, compression=codec)
        expected += [(record.key, record.value, record.headers) for record in sent]

    for client in clients:
        received = client.read_all(topic, len(expected))
        assert [(r.key, r.value, r.headers) for r in received] == expected, client.name
        assert [r.offset for r in received] == list(range(len(expected))), client.name
