"""Sarama's own tests of brokers. They reach five of them through proxies, which they break; here all five lead to one.

Keeps: every test for which a broker is needed runs and passes, but those that are listed here with the reason.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from compat_tests.ecosystem.go_suites import GoSuite, run
from compat_tests.harness.system import free_port
from compat_tests.harness.waiting import until

ROOT: Final = Path(__file__).resolve().parents[2]
BROKERS: Final = 5
PORT: Final = 29_091
"""Where the tests look for the first broker; each of the others is at the next port."""
KAFKA: Final = f"127.0.0.1:{PORT + BROKERS}"
TESTS_OF_BROKERS: Final = (
    *("Func", "VersionMatrix", "ReadOnlyAndAllCommittedMessages", "ConsumerGroupDeadlock", "Interceptors", "Java"),
    *("ConsumerHighWaterMarkOffset", "ConsumerPartialBatchRecovery", "ConsumerFetchFollowerFailover"),
)
"""How the names of those tests begin that need a broker; the others bring one of their own."""


@contextmanager
def proxies(directory: Path) -> Iterator[Mapping[str, str]]:
    install = ["scripts/install-go-tool", "toxiproxy"]
    tool = subprocess.run(install, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300).stdout.strip()
    port = free_port()
    with (directory / "proxies.log").open("wb") as log:
        process = subprocess.Popen([tool, "-host", "127.0.0.1", "-port", str(port)], stdout=log, stderr=log)
    try:
        until(lambda: _answers(port), within_s=30, what="the proxies answer")
        for number in range(BROKERS):
            listen = f"127.0.0.1:{PORT + number}"
            proxy = {"name": f"kafka{number + 1}", "listen": listen, "upstream": KAFKA, "enabled": True}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/proxies", json.dumps(proxy).encode())
            urllib.request.urlopen(request, timeout=10).close()
        yield {"proxies": f"http://127.0.0.1:{port}"}
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/version", timeout=5).close()
    except OSError:
        return False
    return True


SARAMA: Final = GoSuite(
    tool="Sarama",
    module="github.com/IBM/sarama",
    version="v1.61.1",
    packages=(".",),
    environment={"KAFKA_VERSION": "4.1.0", "TOXIPROXY_ADDR": "{proxies}"},
    address=f"{KAFKA}=127.0.0.1:{PORT}",
    chosen=("-tags=functional", f"-run=^Test({'|'.join(TESTS_OF_BROKERS)})"),
    settings={"node.id": "1", "auto.create.topics.enable": "false"},
    beside=proxies,
    left_out={
        "^(TestFuncAdminListConsumerGroupOffsets|TestFuncTxnProduceWithBrokerFailure)$": (
            "they stop a broker's container, of Sarama's own five"
        ),
        "^TestFuncIdempotentBufferedSequence$": "it reads the log of such a container",
        "^(TestFuncAdminAlterPartitionReassignments|TestFuncAdminDescribeLogDirs|TestConsumerFetchFollowerFailover)$": (
            "they want five brokers, or replicas"
        ),
    },
)
SARAMA_TESTS: Final = partial(run, SARAMA)
