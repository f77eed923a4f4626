"""The tests of Go's Kafka clients, from their released modules, against one Penstock.

Keeps: every test of the packages runs and passes, but those that are listed here with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from compat_tests.ecosystem.finding import Finding
from compat_tests.ecosystem.running import secured
from compat_tests.harness.system import Penstock

SECONDS_MAX: Final = 1_200
SAID_CHARS_MAX: Final = 4_000
USER: Final = "go"
SETTINGS: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "group.min.session.timeout.ms": "6000",
}
"""As the clients' own CI sets its Kafka."""


@dataclass(frozen=True, slots=True)
class GoSuite:
    """`{kafka}` in values of `environment` is Penstock's address. With `is_secured` the tests come by SASL_SSL, as the
    user `go`: `{password}` is that user's for SCRAM, `{ca}` a file of who vouches for Penstock, `{unsealed}` a listener
    that asks for the user without TLS."""

    tool: str
    module: str
    version: str
    packages: tuple[str, ...]
    environment: Mapping[str, str]
    address: str = ""
    """Where Penstock must serve, since the tests have no other; else at a free port."""
    what: str = "its own tests"
    is_secured: bool = False
    edits: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By file: a text in it, and what stands there instead."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tests that do not run, by `go test`'s patterns, and why."""
    chosen: Sequence[str] = ()
    """Arguments of `go test` that choose the tests for which a broker is needed."""
    settings: Mapping[str, str] = field(default_factory=dict)
    beside: Callable[[Path], AbstractContextManager[Mapping[str, str]]] = lambda directory: nullcontext({})
    """What else has to run, with further values for `environment`."""


FRANZ: Final = GoSuite(
    tool="franz-go",
    module="github.com/twmb/franz-go",
    version="v1.22.3",
    packages=("./pkg/kgo/...",),
    environment={"KGO_SEEDS": "{kafka}", "KGO_TEST_RF": "1", "KGO_TEST_RECORDS": "50000"},
)
FRANZ_SECURED: Final = replace(
    FRANZ,
    what="its own tests, over SASL_SSL: a line is added to their helper, by which their clients log in",
    is_secured=True,
    edits={
        "pkg/kgo/helpers_test.go": (
            "opts = append(opts, DialTLSConfig(testCert))",
            "opts = append(opts, DialTLSConfig(testCert), SASL(saslScram))",
        )
    },
    environment={
        "KGO_SEEDS": "{kafka}",
        "KGO_TEST_RF": "1",
        "KGO_TEST_RECORDS": "10000",
        "KGO_TEST_TLS": "ca:{ca}",
        "KGO_TEST_SCRAM": f"{USER}:{{password}}:512",
        "KGO_TEST_SCRAM_SEEDS": "{unsealed}",
    },
    left_out={"^TestIssue769$": "it dials by itself, which the client refuses beside settings of TLS"},
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
    for name, (before, after) in suite.edits.items():
        text = (sources / name).read_text()
        assert text.count(before) == 1, f"{name} has {before!r} no longer"
        (sources / name).write_text(text.replace(before, after))
    (directory / "server").mkdir()
    with (_secured if suite.is_secured else _open)(suite, directory / "server") as values:
        outcomes = _tested(suite, sources, values)
    passed, skipped = (sum(outcome == kind for outcome in outcomes.values()) for kind in ("pass", "skip"))
    left_out = "".join(f"; not run: {_plain(name)} ({why})" for name, why in suite.left_out.items())
    return Finding(suite.tool, suite.version, suite.what, f"{passed} pass, {skipped} leave themselves out{left_out}")


@contextlib.contextmanager
def _open(suite: GoSuite, directory: Path) -> Iterator[Mapping[str, str]]:
    """A server that asks nobody who they are."""
    server = Penstock(directory, SETTINGS | suite.settings)
    server.address = suite.address
    server.start()
    try:
        with suite.beside(directory) as values:
            yield {"kafka": server.address} | values
    finally:
        server.stop()


@contextlib.contextmanager
def _secured(suite: GoSuite, directory: Path) -> Iterator[Mapping[str, str]]:
    """A server that asks everybody who they are."""
    with secured(directory, USER, SETTINGS | suite.settings) as values:
        yield values


FRANZ_TESTS: Final = partial(run, FRANZ)
FRANZ_SECURED_TESTS: Final = partial(run, FRANZ_SECURED)
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


def _tested(suite: GoSuite, sources: Path, values: Mapping[str, str]) -> dict[str, str]:
    """The outcome of each test by name."""
    command = ["go", "test", "-json", "-count=1", f"-timeout={SECONDS_MAX}s"]
    if suite.left_out:
        command.append("-skip=" + "|".join(suite.left_out))
    environment = {name: value.format(**values) for name, value in suite.environment.items()}
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
