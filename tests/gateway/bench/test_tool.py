"""`penstock bench` against a real gateway: its files, its counts, its refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.gateway_process import Gateway
from tests.gateway.launching import PENSTOCK, run

REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.slow

RUN_SECONDS_MAX = 90
STALL_S = 2.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("bench"), {}) as running:
        running.start()
        yield running


def command(gateway: Gateway, *arguments: object) -> list[str]:
    return [PENSTOCK, "bench", "--bootstrap", gateway.address, "--warmup", "0", *map(str, arguments)]


def bench(gateway: Gateway, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(gateway, *arguments), capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False
    )


def result(gateway: Gateway, *arguments: object) -> dict[str, Any]:
    done = bench(gateway, "--json", "-", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def topics(gateway: Gateway) -> set[str]:
    return set(AdminClient({"bootstrap.servers": gateway.address}).list_topics(timeout=10).topics)


class TestFigures:
    def test_json(self, gateway: Gateway) -> None:
        """The file has exactly the figures of the run, in one shape for every workload."""
        written = result(gateway, "--records", 2000, "--size", 250, "--workload", "small")

        assert list(written) == [
            *("workload", "records", "bytes", "seconds", "records_s", "mb_s", "errors", "latency_ms"),
        ]
        assert list(written["latency_ms"]) == ["avg", "max", "p50", "p75", "p90", "p95", "p99", "p99_9", "p99_99"]
        assert (written["workload"], written["records"], written["bytes"]) == ("small", 2000, 500_000)
        assert written["errors"] == 0
        assert written["records_s"] == pytest.approx(2000 / written["seconds"], rel=0.1)  # seconds are in whole ms

    def test_percentiles_ascend(self, gateway: Gateway) -> None:
        """Each percentile is at least the one before, and none is above the maximum."""
        latencies = result(gateway, "--records", 5000)["latency_ms"]

        climbing = [latencies[name] for name in ("p50", "p75", "p90", "p95", "p99", "p99_9", "p99_99", "max")]
        assert climbing == sorted(climbing)
        assert climbing[0] > 0

    def test_csv(self, gateway: Gateway, tmp_path: Path) -> None:
        """A row for each interval, whose records add up to no more than the last row's, the total."""
        table = tmp_path / "run.csv"
        done = bench(gateway, "--seconds", 2, "--rate", 500, "--interval", 0.5, "--csv", table)
        assert done.returncode == 0, done.stderr
        *intervals, total = csv.DictReader(table.open())

        assert intervals
        assert {row["part"] for row in intervals} == {"interval"}
        assert (total["part"], total["records"]) == ("total", "1000")
        assert 0 < sum(int(row["records"]) for row in intervals) <= 1000
        assert done.stdout.count(" MB/s  ms: ") == len(intervals)


class TestLoad:
    def test_open_loop_counts_from_the_intended_time(self, gateway: Gateway) -> None:
        """A server that stands still for two seconds is late for all that was due meanwhile, not for one record."""
        run = subprocess.Popen(
            command(gateway, "--rate", 200, "--seconds", 8, "--topic", "stalled", "--json", "-"),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            _until_written(gateway, "stalled")
            os.kill(gateway.pid, signal.SIGSTOP)
            threading.Event().wait(STALL_S)
            os.kill(gateway.pid, signal.SIGCONT)
            out, _ = run.communicate(timeout=RUN_SECONDS_MAX)
        finally:
            os.kill(gateway.pid, signal.SIGCONT)
            run.kill()
            run.wait()
        stalled = json.loads(out)

        assert stalled["records"] == 1600
        assert stalled["latency_ms"]["max"] >= STALL_S * 1000
        # 400 of 1,600 records were due in these two seconds: the mean of their latencies alone is a second.
        assert stalled["latency_ms"]["p90"] >= STALL_S * 1000 * 0.5
        assert stalled["latency_ms"]["avg"] >= STALL_S * 1000 / 2 * 400 / 1600 * 0.9

    @pytest.mark.parametrize("client", ["confluent", "kafka-python", "aiokafka"])
    def test_end_to_end(self, gateway: Gateway, client: str) -> None:
        """Readers get every record that the writers sent, with every client."""
        both = result(
            gateway,
            *("--writers", 2, "--readers", 2, "--partitions", 4, "--rate", 1000, "--records", 1000, "--size", 64),
            *("--client", client),
        )

        assert (both["records"], both["bytes"], both["errors"]) == (1000, 64_000, 0)

    def test_reading(self, gateway: Gateway) -> None:
        """Readers alone read the topic once, all of it between them."""
        result(gateway, "--topic", "read", "--partitions", 3, "--records", 3000, "--keys", 50)

        assert result(gateway, "--topic", "read", "--readers", 2)["records"] == 3000

    def test_reading_part(self, gateway: Gateway) -> None:
        """Each reader stops at the number of records that was asked for."""
        result(gateway, "--topic", "part", "--records", 3000)

        assert result(gateway, "--topic", "part", "--readers", 2, "--records", 500)["records"] == 1000

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--compression", "lz4", "--acks", "1"),
            ("--idempotence",),
            ("--writers", "20", "--processes", "2"),
            ("--config", "linger.ms=0"),
        ],
    )
    def test_ways_of_writing(self, gateway: Gateway, arguments: tuple[str, ...]) -> None:
        """Each way delivers the requested load."""
        assert result(gateway, "--records", 600, *arguments)["records"] == 600

    def test_own_topic_is_removed(self, gateway: Gateway) -> None:
        """A run without --topic leaves none behind; --keep-topic does."""
        before = topics(gateway)
        result(gateway, "--records", 10)
        assert topics(gateway) == before

        result(gateway, "--records", 10, "--keep-topic")
        assert len(topics(gateway) - before) == 1


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (("--rate", "5", "--throughput", "5"), "two names of one thing"),
            (("--rate", "0"), "above 0"),
            (("--client", "nosuch"), "is not one of 'confluent', 'kafka-python', 'aiokafka'"),
            (("--config", "linger.ms"), "expected KEY=VALUE"),
            (("--writers", "0"), "neither writers nor readers"),
            (("--topic", "absent", "--readers", "1"), "nothing to read"),
        ],
    )
    def test_options(self, gateway: Gateway, arguments: tuple[str, ...], complaint: str) -> None:
        """Options that make no sense end it with 2, and the message says what would."""
        refused = bench(gateway, *arguments)

        assert refused.returncode == 2
        assert complaint in refused.stderr

    def test_records_that_fail(self, gateway: Gateway) -> None:
        """A refusal of the server is an error, counted and named, and the exit code is 1."""
        larger = ("--size", 2_000_000, "--config", "message.max.bytes=4000000")
        failing = bench(gateway, "--records", 3, *larger, "--json", "-")

        assert failing.returncode == 1
        assert json.loads(failing.stdout)["errors"] == 3
        assert "3 records failed, the last one:" in failing.stderr

    def test_records_that_the_client_refuses(self, gateway: Gateway) -> None:
        """The same for what never left the client."""
        failing = bench(gateway, "--records", 3, "--size", 2_000_000, "--json", "-")

        assert failing.returncode == 1
        assert json.loads(failing.stdout)["errors"] == 3

    @pytest.mark.parametrize(
        ("option", "value", "allowed"),
        [
            ("--compression", "brotli", "zstd"),
            ("--acks", "2", "all"),
            ("--client", "franz-go", "kafka-python"),
            ("--seconds", "nan", "--seconds"),
            ("--rate", "inf", "finite"),
            ("--throughput", "nan", "finite"),
            ("--csv", "/no/such/directory/file", "no file can be written"),
            ("--json", "/", "no file can be written"),
        ],
    )
    def test_what_an_option_takes(self, option: str, value: str, allowed: str) -> None:
        """Disallowed options are refused before any connection, with the allowed values."""
        refused = run("bench", "--bootstrap", "127.0.0.1:1", option, value)

        assert (refused.returncode, allowed in refused.stderr) == (2, True), refused.stderr

    def test_in_every_installation(self) -> None:
        """The libraries of the default client and of histograms are locked with the gateway; the image has the tool."""
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        locked = (REPOSITORY / "requirements.lock").read_text()

        for name in ("confluent-kafka", "hdrhistogram"):
            assert any(needed.startswith(name) for needed in project["dependencies"])
            assert f"\n{name}==" in locked
        assert "COPY gateway " in (REPOSITORY / "deploy/Dockerfile").read_text()
        assert "!gateway\n" in (REPOSITORY / ".dockerignore").read_text()

    def test_without_its_libraries(self) -> None:
        """An incomplete installation gives a message."""
        absent = "import sys; sys.modules['hdrh'] = None; from gateway.cli.app import main; main()"
        refused = subprocess.run(
            [sys.executable, "-c", absent, "bench"], capture_output=True, text=True, timeout=30, check=False
        )

        assert refused.returncode == 2
        assert "is not installed" in refused.stderr


def _until_written(gateway: Gateway, topic: str) -> None:
    consumer = Consumer({"bootstrap.servers": gateway.address, "group.id": "look"})
    deadline = time.monotonic() + 30
    while True:
        assert time.monotonic() < deadline, "nothing was written"
        if topic in topics(gateway) and consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1] > 100:
            break
        time.sleep(0.02)
    consumer.close()
