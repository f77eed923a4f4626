"""The shared parts of the Python client processes: the line protocol, handles, and how an error becomes a refusal.

A request is {"op": NAME, ...arguments}; the answer {"ok": RESULT} or {"error": {code, name, message}}.
Requests are served strictly one after another; the process ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from compat_tests.harness.records import packed, unpacked

LINE_BYTES_MAX = 256 * 1024 * 1024

Json = dict[str, Any]


def refusal(error: BaseException) -> Json:
    """Kafka's error number wherever the library kept one."""
    code = getattr(error, "errno", None)
    if isinstance(error, OSError):
        code = None
    return {"code": code, "name": type(error).__name__, "message": str(error)}


class Agent:
    """One client library behind the line protocol; methods named op_* are what it can do."""

    TIMESTAMP_TYPES: ClassVar[Mapping[int, str]] = {0: "create", 1: "append"}

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.handles: dict[int, Any] = {}

    def keep(self, thing: Any) -> int:
        handle = len(self.handles) + 1
        self.handles[handle] = thing
        return handle

    async def answer(self, request: Json) -> Json:
        operation = getattr(self, "op_" + request.pop("op"))
        try:
            result = operation(**request)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # whatever the library raises is the scenario's to judge
            logging.getLogger("agent").exception("refused")
            return {"error": self.refusal(error)}
        return {"ok": result}

    def refusal(self, error: BaseException) -> Json:
        return refusal(error)

    async def serve(self) -> None:
        # Libraries may print; the answers keep the original standard output to themselves.
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        loop = asyncio.get_running_loop()
        requests = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
        while line := await requests.readline():
            answers.write(json.dumps(await self.answer(json.loads(line))) + "\n")
            answers.flush()

    @classmethod
    def main(cls) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
        asyncio.run(cls(sys.argv[1]).serve())
        os._exit(0)  # clients left open by a failed scenario must not hold the process up


def record_arguments(raw: Json) -> Json:
    """A record's fields as bytes and tuples."""
    return {
        "key": unpacked(raw["key"]),
        "value": unpacked(raw["value"]),
        "headers": [(name, unpacked(value)) for name, value in raw["headers"]],
        "partition": raw["partition"],
        "timestamp_ms": raw["timestamp"],
    }


def stored(record: Any) -> Json:
    """A ConsumerRecord of kafka-python or aiokafka (they share its shape)."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": packed(record.key),
        "value": packed(record.value),
        "headers": [[name, packed(value)] for name, value in record.headers],
        "timestamp": record.timestamp,
        "timestamp_type": Agent.TIMESTAMP_TYPES.get(record.timestamp_type),
    }
