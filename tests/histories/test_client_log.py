"""What librdkafka says is understood: a history is judged by it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import confluent_kafka
import pytest

from compat_tests.histories.client_log import ClientLog
from tests.gateway.harness import Client, running_broker

WITHIN_S = 60.0


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_raised_epoch_is_told(tmp_path: Path, is_refused: bool) -> None:
    """As after an error that is final: a record without a key, in a topic that is compacted."""

    async def scenario() -> ClientLog:
        log = ClientLog()
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t", cleanup_policy="compact")
            client.close()
            server = f"127.0.0.1:{broker._kafka[0].port}"
            producer = confluent_kafka.Producer(
                {**log.settings, "bootstrap.servers": server, "enable.idempotence": True}
            )
            producer.produce("t", b"value", key=None if is_refused else b"key")
            deadline = time.monotonic() + WITHIN_S
            while len(producer) or not log.lines:
                assert time.monotonic() < deadline, log.lines
                producer.poll(0)
                await asyncio.sleep(0.01)
        return log

    log = asyncio.run(scenario())
    assert bool(log.raised) == is_refused, log.lines
    assert any("encountered error" in line for line in log.lines) == is_refused
