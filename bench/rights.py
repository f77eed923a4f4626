"""What the authorizer costs Produce and Fetch: `python -m bench.rights [ROUNDS]`.

Two gateways run at once, one with the authorizer, one without. One client asks them in turn,
so that what else happens on the machine happens to both. The figure is the processor time of the gateway for a
request, which other work disturbs less than a rate.
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil

from gateway.records.records import Record, build_batch
from gateway.wire.codec import request_codec
from gateway.wire.headers import RequestHeader, encode_request_header

REQUESTS: Final = 40_000
AT_ONCE: Final = 32
ROUNDS: Final = 12
START_S: Final = 30
TOPIC: Final = "orders"
PRODUCE, FETCH, CREATE_TOPICS = 0, 1, 19
AUTHORIZER: Final = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
RIGHTS: Final = {"with": (AUTHORIZER, "super.users=User:admin", "allow.everyone.if.no.acl.found=true"), "without": ()}


def frame(key: int, version: int, body: dict[str, Any]) -> bytes:
    codec = request_codec(key, version)
    request = encode_request_header(RequestHeader(key, version, 1, "rights"), codec.flexible) + bytes(
        codec.encode(body)
    )
    return struct.pack(">i", len(request)) + request


class Gateway:
    """One gateway process, and a connection to it."""

    def __init__(self, directory: Path, settings: tuple[str, ...]) -> None:
        ready = directory / "ready.json"
        command = [str(Path(sys.executable).parent / "penstock"), "serve", "--listen", "127.0.0.1:0", "--http", "off"]
        command += ["--data-dir", str(directory / "data"), "--ready-file", str(ready)]
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *(f"--set={setting}" for setting in settings)], stdout=log, stderr=log
            )
        ends_at = time.monotonic() + START_S
        while not ready.exists() or not ready.read_text().strip():
            assert time.monotonic() < ends_at, (directory / "log").read_text()
            time.sleep(0.05)
        host, port = json.loads(ready.read_text())["kafka"][0].rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)))
        self._answers = self._socket.makefile("rb")
        self._cpu = psutil.Process(self._process.pid)

    def ask(self, request: bytes, times: int = 1) -> float:
        """Microseconds of processor time of the gateway for each of the requests."""
        before = self._cpu_s()
        for _ in range(0, times, AT_ONCE):
            some = min(AT_ONCE, times)
            self._socket.sendall(request * some)
            for _ in range(some):
                (size,) = struct.unpack(">i", self._answers.read(4))
                self._answers.read(size)
        return (self._cpu_s() - before) / times * 1e6

    def _cpu_s(self) -> float:
        times = self._cpu.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(START_S)


def requests() -> dict[str, bytes]:
    batch = bytes(build_batch([Record(0, 1_700_000_000_000, b"k", bytes(100))]))
    partitions = [{"index": 0, "records": batch}]
    produce = {"acks": 1, "timeout": 10_000, "topic_data": [{"name": TOPIC, "partition_data": partitions}]}
    asked = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1_000, "current_leader_epoch": -1}
    fetch = {"replica_id": -1, "max_wait": 0, "min_bytes": 1, "max_bytes": 1_000, "session_epoch": -1}
    topics = [{"topic": TOPIC, "partitions": [asked]}]
    return {"produce": frame(PRODUCE, 8, produce), "fetch": frame(FETCH, 11, {**fetch, "topics": topics})}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    topics = [{"name": TOPIC, "num_partitions": 1, "replication_factor": 1}]
    with tempfile.TemporaryDirectory() as directory:
        gateways = {}
        for name, settings in RIGHTS.items():
            (Path(directory) / name).mkdir()
            gateways[name] = Gateway(Path(directory) / name, settings)
        try:
            for gateway in gateways.values():
                gateway.ask(frame(CREATE_TOPICS, 4, {"timeout": 10_000, "topics": topics}))
            for what, request in requests().items():
                spent: dict[str, list[float]] = {name: [] for name in gateways}
                for number in range(rounds + 1):
                    for name in sorted(gateways, reverse=bool(number % 2)):
                        microseconds = gateways[name].ask(request, REQUESTS)
                        if number:  # the first round warms up
                            spent[name].append(microseconds)
                ratio = statistics.median(w / o for w, o in zip(spent["with"], spent["without"], strict=True))
                told = ", ".join(f"{name} {statistics.median(some):.1f} us" for name, some in spent.items())
                print(f"{what}: {told}, ratio {ratio:.3f}")
        finally:
            for gateway in gateways.values():
                gateway.stop()


if __name__ == "__main__":
    main()
