"""Kafka's own command-line tools: what operators type, what they see, and how the tools exit.

Most run by their own main methods in the Java client's process, which saves a start each; some in their own.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.harness.client import Client
from compat_tests.harness.records import Record
from compat_tests.harness.system import System, java_command
from compat_tests.harness.waiting import until

_NUMBERS = itertools.count(1)

TOPICS = "org.apache.kafka.tools.TopicCommand"
CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
CONFIGS = "kafka.admin.ConfigCommand"
GET_OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
LOG_DIRS = "org.apache.kafka.tools.LogDirsCommand"
API_VERSIONS = "org.apache.kafka.tools.BrokerApiVersionsCommand"
CLUSTER = "org.apache.kafka.tools.ClusterTool"
ALL_GROUPS = "org.apache.kafka.tools.GroupsCommand"
VERIFIABLE_PRODUCER = "org.apache.kafka.tools.VerifiableProducer"
VERIFIABLE_CONSUMER = "org.apache.kafka.tools.VerifiableConsumer"
PRODUCER_PERF = "org.apache.kafka.tools.ProducerPerformance"
CONSUMER_PERF = "org.apache.kafka.tools.ConsumerPerformance"
TRANSACTIONS = "org.apache.kafka.tools.TransactionsCommand"
COMPATIBILITY = "org.apache.kafka.tools.ClientCompatibilityTest"

SERVER = ("--bootstrap-server", "BOOTSTRAP")


class Tools:
    def __init__(self, java: Client, address: str) -> None:
        self._java = java
        self._address = address
        self.topic = f"tools-{next(_NUMBERS)}"
        self.group = f"{self.topic}-group"

    def run(self, tool: str, *arguments: str, given: str = "", status: int = 0) -> str:
        """Run a tool to its end; the answer is what it printed (with its errors where it fails)."""
        done = self._java.agent.call("tool", name=tool, arguments=arguments, input=given)
        said = done["output"] + done["errors"]
        assert done["status"] == status, said
        return done["output"] if status == 0 else said

    def run_alone(self, tool: str, *arguments: str) -> str:
        """Run a tool in a JVM of its own: for those that work on after their main method."""
        given = [argument.replace("BOOTSTRAP", self._address) for argument in arguments]
        done = subprocess.run([*java_command(tool), *given], capture_output=True, timeout=90, check=False, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def create(self, partitions: int = 1, *more: str) -> None:
        self.run(
            *(TOPICS, *SERVER, "--create", "--topic", self.topic),
            *("--partitions", str(partitions), *more),
        )

    def produce(self, lines: list[str], *more: str) -> None:
        given = "".join(line + "\n" for line in lines)
        self.run(CONSOLE_PRODUCER, *SERVER, "--topic", self.topic, *more, given=given)

    def consume(self, count: int, *more: str) -> list[str]:
        return self.run(
            *(CONSOLE_CONSUMER, *SERVER, "--topic", self.topic, "--from-beginning"),
            *("--max-messages", str(count), "--timeout-ms", "15000", *more),
        ).splitlines()

    def rows(self, tool: str, *arguments: str) -> list[dict[str, str]]:
        """A group tool's table, by its headings."""
        return self.table(tool, *arguments, first="GROUP")

    def table(self, tool: str, *arguments: str, first: str | None = None) -> list[dict[str, str]]:
        """A tool's table, by its headings, the first of which may have to be named."""
        lines = [line.split() for line in self.run(tool, *arguments).splitlines() if line.strip()]
        start = next(n for n, line in enumerate(lines) if first in (None, line[0]))
        return [dict(zip(lines[start], line, strict=False)) for line in lines[start + 1 :]]


@pytest.fixture
def tools(java: Client, system: System) -> Tools:
    return Tools(java, system.address)


def test_topics(tools: Tools) -> None:
    """kafka-topics creates, lists, describes, alters and deletes."""
    tools.create(3, "--config", "retention.ms=1234567")

    assert tools.topic in tools.run(TOPICS, *SERVER, "--list").split()
    described = tools.run(TOPICS, *SERVER, "--describe", "--topic", tools.topic)
    assert "PartitionCount: 3" in described
    assert "ReplicationFactor: 1" in described
    assert "retention.ms=1234567" in described
    assert len(re.findall(r"Leader: 1\s+Replicas: 1\s+Isr: 1", described)) == 3

    tools.run(TOPICS, *SERVER, "--alter", "--topic", tools.topic, "--partitions", "5")
    described = tools.run(TOPICS, *SERVER, "--describe", "--topic", tools.topic)
    assert "PartitionCount: 5" in described

    tools.run(TOPICS, *SERVER, "--delete", "--topic", tools.topic)
    until(
        lambda: tools.topic not in tools.run(TOPICS, *SERVER, "--list").split(),
        within_s=30,
        what="the topic is gone",
    )


def test_topics_refusals(tools: Tools) -> None:
    """kafka-topics exits with 1 where the server refuses, and says why."""
    tools.create()

    said = tools.run(*(TOPICS, *SERVER, "--create", "--topic", tools.topic, "--partitions", "1"), status=1)
    assert "already exists" in said
    tools.run(
        *(TOPICS, *SERVER, "--create", "--if-not-exists"),
        *("--topic", tools.topic, "--partitions", "1"),
    )
    tools.run(TOPICS, *SERVER, "--describe", "--topic", "no-such-topic", status=1)


def test_console_producer_and_consumer(tools: Tools) -> None:
    """Lines with keys and headers go through the console tools and come out with offsets."""
    tools.create()
    tools.produce(
        ["h1:a,h2:b\tkey1\tvalue1", "h1:c\tkey2\tvalue2"],
        *("--reader-property", "parse.key=true", "--reader-property", "parse.headers=true"),
    )

    shown = tools.consume(
        2,
        *itertools.chain.from_iterable(
            ("--formatter-property", f"print.{what}=true") for what in ("key", "headers", "offset", "partition")
        ),
    )
    assert shown == [
        "Partition:0\tOffset:0\th1:a,h2:b\tkey1\tvalue1",
        "Partition:0\tOffset:1\th1:c\tkey2\tvalue2",
    ]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_console_producer_compression(tools: Tools, codec: str) -> None:
    """The console producer's codecs, each read back."""
    tools.create()
    lines = [f"line {number}" for number in range(200)]
    tools.produce(lines, "--compression-codec", codec)

    assert tools.consume(200) == lines


def test_consumer_groups(tools: Tools) -> None:
    """kafka-consumer-groups lists, describes with lag, resets and deletes."""
    tools.create(2)
    tools.run(
        *(CONSOLE_PRODUCER, *SERVER, "--topic", tools.topic, "--reader-property", "parse.key=true"),
        given="".join(f"k{n}\tv{n}\n" for n in range(30)),
    )
    tools.consume(30, "--group", tools.group, "--consumer-property", "session.timeout.ms=6000")
    tools.produce(["late"])

    assert tools.group in tools.run(GROUPS, *SERVER, "--list").split()
    assert tools.group in tools.run(ALL_GROUPS, *SERVER, "--list")
    described = tools.rows(GROUPS, *SERVER, "--describe", "--group", tools.group)
    assert [row["PARTITION"] for row in described] == ["0", "1"]
    assert sum(int(row["CURRENT-OFFSET"]) for row in described) == 30
    assert sum(int(row["LAG"]) for row in described) == 1
    [state] = tools.rows(GROUPS, *SERVER, "--describe", "--state", "--group", tools.group)
    assert "Empty" in state.values()

    reset = ("--reset-offsets", "--group", tools.group, "--topic", tools.topic)
    tools.run(GROUPS, *SERVER, *reset, "--to-earliest", "--execute")
    described = tools.rows(GROUPS, *SERVER, "--describe", "--group", tools.group)
    assert [row["CURRENT-OFFSET"] for row in described] == ["0", "0"]
    tools.run(GROUPS, *SERVER, *reset, "--shift-by", "5", "--execute")
    described = tools.rows(GROUPS, *SERVER, "--describe", "--group", tools.group)
    assert [row["CURRENT-OFFSET"] for row in described] == ["5", "5"]
    tools.run(GROUPS, *SERVER, *reset, "--to-latest", "--execute")
    described = tools.rows(GROUPS, *SERVER, "--describe", "--group", tools.group)
    assert [row["LAG"] for row in described] == ["0", "0"]

    dropped = ("--delete-offsets", "--group", tools.group, "--topic", f"{tools.topic}:0")
    tools.run(GROUPS, *SERVER, *dropped)
    described = tools.rows(GROUPS, *SERVER, "--describe", "--group", tools.group)
    assert [row["PARTITION"] for row in described] == ["1"]
    tools.run(GROUPS, *SERVER, "--delete", "--group", tools.group)
    assert tools.group not in tools.run(GROUPS, *SERVER, "--list").split()


def test_consumer_groups_members(tools: Tools, java: Client) -> None:
    """kafka-consumer-groups shows members with what they hold."""
    tools.create(4)
    consumer = java.consumer(tools.topic, group=tools.group)
    until(lambda: consumer.poll(100) or consumer.assignment(), within_s=30, what="it has joined")

    [member] = tools.rows(*(GROUPS, *SERVER, "--describe", "--members", "--verbose", "--group", tools.group))
    consumer.close()

    assert member["#PARTITIONS"] == "4"
    assert member["HOST"] == "/127.0.0.1"


def test_configs(tools: Tools) -> None:
    """kafka-configs sets, shows and deletes a topic's configuration, and shows a broker's."""
    tools.create()
    topic = ("--entity-type", "topics", "--entity-name", tools.topic)

    tools.run(CONFIGS, *SERVER, *topic, "--alter", "--add-config", "retention.ms=7777777")
    shown = tools.run(CONFIGS, *SERVER, *topic, "--describe")
    assert "retention.ms=7777777" in shown
    assert "DYNAMIC_TOPIC_CONFIG:retention.ms=7777777" in shown
    tools.run(CONFIGS, *SERVER, *topic, "--alter", "--delete-config", "retention.ms")
    assert "7777777" not in tools.run(CONFIGS, *SERVER, *topic, "--describe")
    all_keys = tools.run(CONFIGS, *SERVER, *topic, "--describe", "--all")
    assert "DEFAULT_CONFIG:log.cleanup.policy=delete" in all_keys
    tools.run(CONFIGS, *SERVER, *topic, "--alter", "--add-config", "no.such.key=1", status=1)

    broker = ("--entity-type", "brokers", "--entity-name", "1", "--describe", "--all")
    assert re.search(r"^\s*num\.partitions=16\b", tools.run(CONFIGS, *SERVER, *broker), re.M)


def test_get_offsets(tools: Tools) -> None:
    """kafka-get-offsets shows the ends, the beginnings and what a time finds."""
    tools.create(2)
    tools.produce(["a", "b", "c"])
    topic = (GET_OFFSETS, *SERVER, "--topic", tools.topic, "--time")

    def total(time: str) -> int:
        lines = tools.run(*topic, time).split()
        return sum(int(line.split(":")[2] or 0) for line in lines)

    assert (total("latest"), total("earliest"), total("1000")) == (3, 0, 0)
    assert f"{tools.topic}:" in tools.run(*topic, "max-timestamp")
    assert total("earliest-local") == 0


def test_delete_records(tools: Tools, tmp_path: Path) -> None:
    """kafka-delete-records moves a log's start."""
    tools.create()
    tools.produce(["a", "b", "c", "d"])
    wanted = [{"topic": tools.topic, "partition": 0, "offset": 3}]
    path = tmp_path / "offsets.json"
    path.write_text(json.dumps({"partitions": wanted, "version": 1}))

    said = tools.run(DELETE_RECORDS, *SERVER, "--offset-json-file", str(path))

    assert "low_watermark: 3" in said
    assert tools.consume(1) == ["d"]


def test_log_dirs(tools: Tools, java: Client) -> None:
    """kafka-log-dirs shows a partition's size."""
    tools.create()
    java.write(tools.topic, Record(value=bytes(50_000), partition=0))

    said = tools.run(LOG_DIRS, *SERVER, "--describe", "--topic-list", tools.topic)

    [listing] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    [directory] = listing["brokers"][0]["logDirs"]
    [partition] = directory["partitions"]
    assert directory["error"] is None
    assert partition["partition"] == f"{tools.topic}-0"
    assert partition["size"] >= 50_000
    assert (partition["offsetLag"], partition["isFuture"]) == (0, False)


def test_api_versions(tools: Tools) -> None:
    """kafka-broker-api-versions names what the server serves; the Java client can use each of them."""
    said = tools.run(API_VERSIONS, *SERVER)

    for api in ("Produce(0)", "Fetch(1)", "Metadata(3)", "JoinGroup(11)", "InitProducerId(22)"):
        [line] = [line for line in said.splitlines() if line.strip().startswith(api)]
        assert "usable" in line, line


def test_cluster_id(tools: Tools) -> None:
    """kafka-cluster shows the cluster's id."""
    assert re.search(r"Cluster ID: \S+", tools.run(CLUSTER, "cluster-id", *SERVER))


def test_client_compatibility(tools: Tools) -> None:
    """Kafka's own compatibility check finds every feature that a 4.x client expects of a broker."""
    tools.create()
    acls = "DescribeAcls(29): UNSUPPORTED" not in tools.run(API_VERSIONS, *SERVER)
    tools.run(
        *(COMPATIBILITY, *SERVER, "--topic", tools.topic),
        *("--offsets-for-times-supported", "true", "--cluster-id-supported", "true"),
        *("--expect-record-too-large-exception", "false", "--create-topics-supported", "true"),
        *("--describe-acls-supported", str(acls).lower(), "--describe-configs-supported", "true"),
        *("--idempotent-producer-supported", "true", "--num-cluster-nodes", "1"),
    )


def test_verifiable_producer_and_consumer(tools: Tools) -> None:
    """Each record that the verifiable producer has acknowledged, the verifiable consumer counts."""
    tools.create(2)
    sent = tools.run_alone(
        *(VERIFIABLE_PRODUCER, *SERVER, "--topic", tools.topic),
        *("--max-messages", "500", "--acks", "-1"),
    )
    events = [json.loads(line) for line in sent.splitlines()]
    acknowledged = [int(e["value"]) for e in events if e["name"] == "producer_send_success"]
    assert sorted(acknowledged) == list(range(500))

    read = tools.run_alone(
        *(VERIFIABLE_CONSUMER, *SERVER, "--topic", tools.topic, "--group-id", tools.group),
        *("--max-messages", "500", "--reset-policy", "earliest", "--session-timeout", "6000"),
    )
    events = [json.loads(line) for line in read.splitlines()]
    assert sum(e["count"] for e in events if e["name"] == "records_consumed") == 500
    assert all(e["success"] for e in events if e["name"] == "offsets_committed")


def test_performance_tools(tools: Tools) -> None:
    """The performance tools run to their end and count what they were asked for."""
    tools.create(2)
    sent = tools.run(
        *(PRODUCER_PERF, "--topic", tools.topic, "--num-records", "20000", "--record-size", "200"),
        *("--throughput", "-1", "--command-property", "bootstrap.servers=BOOTSTRAP"),
    )
    assert "20000 records sent" in sent

    read = tools.run(
        *(CONSUMER_PERF, *SERVER, "--topic", tools.topic, "--num-records", "20000"),
        *("--timeout", "20000"),
    )
    assert int(read.splitlines()[-1].split(", ")[4]) >= 20_000


def test_transactions(tools: Tools, java: Client) -> None:
    """kafka-transactions lists and describes transactional ids and a partition's producers, and aborts by hand."""
    tools.create()
    identity = f"{tools.topic}-id"
    producer = java.transactional(identity, transaction_timeout_ms=50_000)
    producer.begin_transaction()
    producer.send(tools.topic, Record(value=b"open", partition=0))
    partition = ("--topic", tools.topic, "--partition", "0")

    [listed] = [row for row in tools.table(TRANSACTIONS, *SERVER, "list") if row["TransactionalId"] == identity]
    [described] = tools.table(TRANSACTIONS, *SERVER, "describe", "--transactional-id", identity)
    [active] = tools.table(TRANSACTIONS, *SERVER, "describe-producers", *partition)
    hanging = tools.table(TRANSACTIONS, *SERVER, "find-hanging", "--broker-id", "1")
    aborted = ("abort", *partition, "--start-offset", "0")
    tools.run(TRANSACTIONS, *SERVER, *aborted)
    [ended] = tools.table(TRANSACTIONS, *SERVER, "describe-producers", *partition)
    producer.close()

    assert listed["TransactionState"] == described["TransactionState"] == "Ongoing"
    assert described["TransactionTimeoutMs"] == "50000"
    assert described["TopicPartitions"] == f"{tools.topic}-0"
    assert active["ProducerId"] == listed["ProducerId"] == described["ProducerId"]
    assert active["CurrentTransactionStartOffset"] == "0"
    assert identity not in {row["TransactionalId"] for row in hanging}
    assert ended["CurrentTransactionStartOffset"] == "None"


def test_isolation_of_the_console_consumer(tools: Tools, java: Client) -> None:
    """The console consumer leaves out what was aborted when it is asked to."""
    tools.create()
    producer = java.transactional(f"{tools.topic}-id")
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.send(tools.topic, Record(value=value, partition=0))
        end()
    producer.close()

    assert tools.consume(1, "--isolation-level", "read_committed") == ["committed"]
    assert tools.consume(2, "--isolation-level", "read_uncommitted") == ["aborted", "committed"]


def test_transactions_of_the_performance_tool(tools: Tools, java: Client) -> None:
    """kafka-producer-perf-test writes in transactions, and all of them are committed."""
    tools.create(2)
    sent = tools.run(
        *(PRODUCER_PERF, "--topic", tools.topic, "--num-records", "5000", "--record-size", "200"),
        *("--throughput", "-1", "--command-property", "bootstrap.servers=BOOTSTRAP"),
        *("--transactional-id", f"{tools.topic}-id", "--transaction-duration-ms", "50"),
    )

    assert "5000 records sent" in sent
    received = java.read_all(tools.topic, 5_000, partitions=2, isolation="read_committed")
    assert len(received) == 5_000


def test_a_tool_in_its_own_process(tools: Tools) -> None:
    """The tools run as shells run them: a JVM of their own, an exit code, lines on standard output."""
    tools.create()

    assert tools.topic in tools.run_alone(TOPICS, *SERVER, "--list").split()
