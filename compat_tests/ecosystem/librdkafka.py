"""librdkafka's own tests of brokers over SASL_SSL, from the sources in its publisher's package for Node.

Keeps: every test for which a broker is needed runs and passes, but those that are listed here with the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from compat_tests.ecosystem.finding import Finding
from compat_tests.ecosystem.running import secured

PACKAGE: Final = "@confluentinc/kafka-javascript@1.10.1"
VERSION: Final = "2.15.1"
INSIDE: Final = "package/deps/librdkafka/"
USER: Final = "tester"
BUILD_S_MAX: Final = 3_600
RUN_S_MAX: Final = 1_500
SAID_CHARS_MAX: Final = 6_000
KAFKA: Final = "4.1.0"
"""The version that the tests take Penstock for."""
SETTINGS: Final = {
    "group.min.session.timeout.ms": "6000",
    "num.partitions": "4",
    "group.initial.rebalance.delay.ms": "3000",
}
"""As the tests' own cluster sets them. The delay is Kafka's default: 0118 takes for granted that two consumers that
begin together come into one rebalance."""
LEFT_OUT: Final[Mapping[str, str]] = {
    "0076": "it breaks connections, and takes TLS's word for that for a failure, as it waits for a socket's"
}
"""Tests that do not run, by number, and why."""
CONFIGURATION: Final = """\
bootstrap.servers={kafka}
security.protocol=SASL_SSL
sasl.mechanisms=SCRAM-SHA-512
sasl.username={user}
sasl.password={password}
ssl.ca.location={ca}
"""


def run(directory: Path) -> Finding:
    """Build and run the tests in an empty directory. Raises AssertionError with the output of what failed."""
    tests = _built(directory / "sources") / "tests"
    server = directory / "server"
    server.mkdir()
    with secured(server, USER, SETTINGS, is_super=False) as values:  # they have ACLs take rights of their own user
        (tests / "test.conf").write_text(CONFIGURATION.format(user=USER, **values))
        outcomes = _tested(tests)
    counts = {state: sum(one == state for one in outcomes.values()) for state in ("PASSED", "SKIPPED")}
    left_out = "".join(f"; not run: {number} ({why})" for number, why in LEFT_OUT.items())
    result = f"{counts['PASSED']} pass, {counts['SKIPPED']} leave themselves out{left_out}"
    return Finding("librdkafka", f"v{VERSION}", "its own tests of brokers in their quick mode, over SASL_SSL", result)


def _built(target: Path) -> Path:
    """The sources, with the tests' program built."""
    target.mkdir()
    command = ["npm", "pack", "--silent", PACKAGE]
    packed = subprocess.run(command, cwd=target, check=True, capture_output=True, text=True, timeout=300)
    with tarfile.open(target / packed.stdout.split()[-1]) as archive:
        wanted = [member for member in archive.getmembers() if member.name.startswith(INSIDE)]
        archive.extractall(target, wanted, filter="data")
    sources = target / INSIDE
    made = ("src", "librdkafka.a"), ("src-cpp", "librdkafka++.a"), ("tests", "test-runner")
    steps = ["./configure", "--disable-gssapi"], *(["make", "-j2", "-C", place, what] for place, what in made)
    for step in steps:
        done = subprocess.run(step, cwd=sources, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False)
        assert not done.returncode, f"{' '.join(step)}\n{(done.stdout + done.stderr)[-SAID_CHARS_MAX:]}"
    return sources


def _tested(tests: Path) -> dict[str, str]:
    """The outcome of each test by name."""
    report = tests / "report.json"
    ran = subprocess.run(
        ["./test-runner", "-p4", "-Q", "-L", "-K"],
        cwd=tests,
        env=os.environ | {"TEST_REPORT": str(report), "TEST_KAFKA_VERSION": KAFKA, "TESTS_SKIP": ",".join(LEFT_OUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=RUN_S_MAX,
        check=False,
    )
    told = json.loads(report.read_text())["tests"] if report.exists() else {}
    outcomes = {name: one["state"] for name, one in told.items()}
    failed = [name for name, state in outcomes.items() if state not in ("PASSED", "SKIPPED")]
    of_failed = "\n".join(line for line in ran.stdout.splitlines() if any(name in line for name in failed))
    said = f"{', '.join(failed)}\n{(of_failed or ran.stdout)[-SAID_CHARS_MAX:]}"
    assert not failed, said
    assert not ran.returncode, said
    return outcomes


TESTS: Final = run
