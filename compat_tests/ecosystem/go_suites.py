"""The tests of Go's Kafka clients, from their released modules, against one Penstock.

Keeps: every test of the packages runs and passes, but those that are listed here with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from compat_tests.ecosystem.finding import Finding
from compat_tests.harness.system import Penstock, free_port
from compat_tests.harness.waiting import until

SECONDS_MAX: Final = 1_200
SAID_CHARS_MAX: Final = 4_000
ROOT: Final = Path(__file__).resolve().parents[2]
SARAMA_PORT: Final = 29_091
"""Where Sarama's tests look for the first of five brokers, each at the next port."""
SARAMA_KAFKA: Final = f"127.0.0.1:{SARAMA_PORT + 5}"
SARAMA_TESTS_OF_BROKERS: Final = (
    *("Func", "VersionMatrix", "ReadOnlyAndAllCommittedMessages", "ConsumerGroupDeadlock", "Interceptors", "Java"),
    *("ConsumerHighWaterMarkOffset", "ConsumerPartialBatchRecovery", "ConsumerFetchFollowerFailover"),
)
"""How the names of those tests begin that need a broker; the others bring one of their own."""
SETTINGS: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "group.min.session.timeout.ms": "6000",
}
"""As the clients' own CI sets its Kafka."""


@dataclass(frozen=True, slots=True)
class GoSuite:
    """`{kafka}` in values of `environment` is Penstock's address."""

    tool: str
    module: str
    version: str
    packages: tuple[str, ...]
    environment: Mapping[str, str]
    address: str = ""
    """Where Penstock must serve, since the tests have no other; else at a free port."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tests that do not run, by `go test`'s patterns, and why."""
    chosen: tuple[str, ...] = ()
    """Arguments of `go test` that choose the tests for which a broker is needed."""
    settings: Mapping[str, str] = field(default_factory=dict)
    beside: Callable[[str, Path], AbstractContextManager[Mapping[str, str]]] = lambda kafka, directory: nullcontext({})
    """What else has to run, with the values that it adds to the environment."""


FRANZ: Final = GoSuite(
    tool="franz-go",
    module="github.com/twmb/franz-go",
    version="v1.22.3",
    packages=("./pkg/kgo/...",),
    environment={"KGO_SEEDS": "{kafka}", "KGO_TEST_RF": "1", "KGO_TEST_RECORDS": "50000"},
)
KAFKA_GO: Final = GoSuite(
    tool="kafka-go",
    module="github.com/segmentio/kafka-go",
    version="v0.4.51",
    packages=(".", "./topics"),
    environment={"KAFKA_VERSION": "4.1.0", "KAFKA_SKIP_NETTEST": "1"},
    address="127.0.0.1:9092=localhost",
    left_out={
        "^TestReaderConsumerGroup$/^(consumer_group_commits_on_close|verify_offset_committed.*)$": (
            "the tests follow a nil pointer, with Apache Kafka 4.3.1 too"
        ),
        "^TestReaderConsumerGroup$/^consumer_group_rebalance$": "fails with Apache Kafka 4.3.1 too",
        "^(TestRebalanceTooManyConsumers|TestConsumerGroupWithTopic|TestConsumerGroupWithGroupTopicsSingle)$": (
            "they race with the creation of their topic, with Apache Kafka 4.3.1 too"
        ),
        "^TestReaderReadCompactedMessage$": "it wants segments of 200 bytes, which Kafka 4 refuses too",
        "^TestUnsupportedSASLMechanism$": "it wants SASL on port 9093",
        "^TestWriter$/^writing_a_message_with_SASL_Plain_authentication$": "likewise",
    },
)


def run(suite: GoSuite, directory: Path) -> Finding:
    """Run a suite in an empty directory. Raises AssertionError with the output of what failed."""
    sources = _copied(suite, directory / "sources")
    (directory / "server").mkdir()
    server = Penstock(directory / "server", SETTINGS | suite.settings)
    server.address = suite.address
    server.start()
    try:
        with suite.beside(server.address, directory) as added:
            outcomes = _tested(suite, sources, server.address, added)
    finally:
        server.stop()
    passed, skipped = (sum(outcome == kind for outcome in outcomes.values()) for kind in ("pass", "skip"))
    left_out = "".join(f"; not run: {_plain(name)} ({why})" for name, why in suite.left_out.items())
    return Finding(
        suite.tool, suite.version, "its own tests", f"{passed} pass, {skipped} leave themselves out{left_out}"
    )


@contextmanager
def proxies(_: str, directory: Path) -> Iterator[Mapping[str, str]]:
    """Sarama's tests reach five brokers through proxies that they break: here all five lead to one."""
    install = ["scripts/install-go-tool", "toxiproxy"]
    tool = subprocess.run(install, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300).stdout.strip()
    port = free_port()
    with (directory / "proxies.log").open("wb") as log:
        process = subprocess.Popen([tool, "-host", "127.0.0.1", "-port", str(port)], stdout=log, stderr=log)
    try:
        until(lambda: _answers(port), within_s=30, what="the proxies answer")
        for number in range(1, 6):
            listen = f"127.0.0.1:{SARAMA_PORT + number - 1}"
            proxy = {"name": f"kafka{number}", "listen": listen, "upstream": SARAMA_KAFKA, "enabled": True}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/proxies", json.dumps(proxy).encode())
            urllib.request.urlopen(request, timeout=10).close()
        yield {"TOXIPROXY_ADDR": f"http://127.0.0.1:{port}"}
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
    environment={"KAFKA_VERSION": "4.1.0"},
    address=f"{SARAMA_KAFKA}=127.0.0.1:{SARAMA_PORT}",
    chosen=("-tags=functional", f"-run=^Test({'|'.join(SARAMA_TESTS_OF_BROKERS)})"),
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
FRANZ_TESTS: Final = partial(run, FRANZ)
SARAMA_TESTS: Final = partial(run, SARAMA)
KAFKA_GO_TESTS: Final = partial(run, KAFKA_GO)


def _plain(pattern: str) -> str:
    """For a cell of a table: no pattern's own signs, nor bars."""
    return f"`{pattern.translate(str.maketrans('|', ' ', '^$()'))}`"


def _copied(suite: GoSuite, target: Path) -> Path:
    """The module's files, where Go may write beside them."""
    command = ["go", "mod", "download", "-json", f"{suite.module}@{suite.version}"]
    found = subprocess.run(command, check=True, capture_output=True, timeout=300)
    shutil.copytree(json.loads(found.stdout)["Dir"], target, copy_function=shutil.copyfile)
    for place in [target, *target.rglob("*")]:
        place.chmod(0o755 if place.is_dir() else 0o644)
    return target


def _tested(suite: GoSuite, sources: Path, kafka: str, added: Mapping[str, str]) -> dict[str, str]:
    """The outcome of each test by name."""
    command = ["go", "test", "-json", "-count=1", f"-timeout={SECONDS_MAX}s"]
    if suite.left_out:
        command.append("-skip=" + "|".join(suite.left_out))
    environment = {name: value.format(kafka=kafka) for name, value in suite.environment.items()} | added
    ran = subprocess.run(
        [*command, *suite.chosen, *suite.packages],
        cwd=sources,
        env=os.environ | {"GOFLAGS": "-mod=mod"} | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX + 60,
        check=False,
    )
    outcomes: dict[str, str] = {}
    said: dict[str, str] = {}
    for line in ran.stdout.splitlines():
        event = json.loads(line)
        name = f"{event.get('Package', '')} {event.get('Test', '')}".strip()
        if event["Action"] in ("pass", "fail", "skip") and "Test" in event:
            outcomes[name] = event["Action"]
        elif event["Action"] == "output":
            said[name] = said.get(name, "") + event["Output"]
    failed = [name for name, outcome in outcomes.items() if outcome == "fail"]
    assert not failed, "\n\n".join(f"{name}\n{said.get(name, '')[-SAID_CHARS_MAX:]}" for name in failed)
    assert not ran.returncode, (ran.stdout + ran.stderr)[-SAID_CHARS_MAX:]
    return outcomes
