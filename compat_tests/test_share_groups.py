"""Share groups (KIP-932) with librdkafka's share consumer, Kafka's own and Kafka's tools, over kills of the gateway."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import AcknowledgeType, Producer, ShareConsumer

from compat_tests.harness.moving import CONTAINERS, Mover
from compat_tests.harness.system import Penstock, compile_runner, java_command
from compat_tests.harness.waiting import until

SHARE_GROUPS = "org.apache.kafka.tools.consumer.group.ShareGroupCommand"
SHARE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleShareConsumer"
GROUPS = "org.apache.kafka.tools.GroupsCommand"
CONFIGS = "kafka.admin.ConfigCommand"
TOPICS = "org.apache.kafka.tools.TopicCommand"
JAVA_MEMBER = "penstock.compat.ShareMember"
ONE: dict[str, str] = {}
WORKERS = {"containers": "4", "workers": "2"}
SEVERAL = {"containers": str(CONTAINERS)}
MOVES = 6
STARTS_WITHIN_S = 90.0
WITHIN_S = 30.0
DELIVERIES = 2
QUIET_S = 3.0
"""Time in which nothing more comes when all has come."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=[ONE, WORKERS], ids=["one", "workers"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Penstock]:
    settings = {"log.file.bytes": "16777216", "group.share.min.record.lock.duration.ms": "1000", **request.param}
    server = Penstock(tmp_path_factory.mktemp("share"), settings)
    server.start()
    yield server
    server.stop()


class Stage:
    """A topic and a share group that begins at its start.

    Members that are killed belong to the group for the session's time, which is 45 s at least, and a partition may be
    theirs alone meanwhile; unless there is only one, which all have.
    """

    def __init__(self, gateway: Penstock, partitions: int = 2, **configs: str) -> None:
        self.gateway = gateway
        self.topic = f"shared-{next(_numbers)}"
        self.group = f"{self.topic}-group"
        self.tool(TOPICS, "--create", "--topic", self.topic, "--partitions", str(partitions))
        said = {"share.auto.offset.reset": "earliest", **configs}
        given = ",".join(f"{key}={value}" for key, value in said.items())
        self.tool(CONFIGS, "--alter", "--entity-type", "groups", "--entity-name", self.group, "--add-config", given)

    def tool(self, name: str, *arguments: str) -> str:
        command = [*java_command(name), "--bootstrap-server", self.gateway.address, *arguments]
        done = subprocess.run(command, capture_output=True, timeout=90, check=False, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def write(self, *values: str, **options: str) -> None:
        producer = Producer({"bootstrap.servers": self.gateway.address, **options})
        for value in values:
            producer.produce(self.topic, value.encode())
        assert producer.flush(WITHIN_S) == 0

    def member(self, mode: str = "implicit") -> ShareConsumer:
        member = ShareConsumer(
            {
                "bootstrap.servers": self.gateway.address,
                "group.id": self.group,
                "share.acknowledgement.mode": mode,
                "log_level": 0,
            }
        )
        member.subscribe([self.topic])
        return member

    def read(self, count: int, within_s: float = WITHIN_S) -> list[str]:
        """The values that a member gets and accepts: `count` of them, or fewer if time is up."""
        member = self.member()
        values: list[str] = []
        for message in messages(member, within_s):
            values.append(text(message))
            if len(values) == count:
                break
        member.commit_sync()
        member.close()
        return values

    def read_all(self, count: int) -> list[str]:
        """The values that a member gets and accepts: `count` of them, however long that takes, and what comes then."""
        member = self.member()
        values = [text(message) for message in messages(member, quiet_after=count)]
        member.commit_sync()
        member.close()
        return values


def messages(member: ShareConsumer, within_s: float = WITHIN_S, quiet_after: int | None = None) -> Iterator[Any]:
    """What a member gets within a time; after `quiet_after` messages the time is short."""
    ends_s = time.monotonic() + within_s
    count = 0
    while time.monotonic() < ends_s:
        for message in member.poll(0.5) or ():
            assert message.error() is None, message.error()
            count += 1
            if count == quiet_after:
                ends_s = time.monotonic() + QUIET_S
            yield message


def text(message: Any) -> str:
    value: bytes = message.value()
    return value.decode()


class JavaMember:
    """Kafka's own share consumer in a process of its own, which tells what it gets and what it has settled."""

    def __init__(self, stage: Stage, output: Path, acquire: str, acknowledge: str) -> None:
        compile_runner()
        self._output = output
        said = (stage.gateway.address, stage.group, stage.topic, acquire, acknowledge)
        with output.open("wb") as told, output.with_suffix(".err").open("wb") as errors:
            self._process = subprocess.Popen(
                [*java_command(JAVA_MEMBER), *said], stdin=subprocess.PIPE, stdout=told, stderr=errors
            )

    def told(self, word: str) -> list[str]:
        """What it has told with this word, without it."""
        whole, _, _ = self._output.read_text().rpartition("\n")
        return [line.removeprefix(f"{word} ") for line in whole.splitlines() if line.startswith(f"{word} ")]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def dies(self) -> None:
        """Wait for its end, which it did not choose."""
        assert self._process.wait(STARTS_WITHIN_S) != 0

    def end(self) -> None:
        """Have it leave its group."""
        self._process.communicate(b"end", timeout=WITHIN_S)
        assert self._process.returncode == 0, self._output.with_suffix(".err").read_text()[-2_000:]


@pytest.mark.parametrize("gateway", [ONE], ids=["one"], indirect=True, scope="module")
def test_kafkas_share_consumer_is_explicit(gateway: Penstock, tmp_path: Path) -> None:
    """Kafka's own consumer accepts, releases, rejects and renews each record by itself."""
    stage = Stage(gateway, **{"share.delivery.count.limit": str(DELIVERIES)})
    stage.write("accept-1", "release-1", "reject-1", "renew-1")
    wanted = sorted(["accept-1", "reject-1", *["release-1"] * DELIVERIES, "renew-1", "renew-1"])
    member = JavaMember(stage, tmp_path / "told", "record_limit", "explicit")
    try:
        until(lambda: len(member.told("done")) >= len(wanted), within_s=STARTS_WITHIN_S, what="all is settled")
        member.end()
    finally:
        member.kill()

    assert sorted(member.told("done")) == wanted
    got = ["accept-1 1", "reject-1 1", "release-1 1", "release-1 2", "renew-1 1", "renew-1 1"]
    assert sorted(member.told("got")) == got, "a renewal is no delivery"
    assert stage.read(1, within_s=3) == [], "nothing is left for others"


@pytest.mark.parametrize("gateway", [ONE], ids=["one"], indirect=True, scope="module")
def test_kafkas_share_consumers_are_killed(gateway: Penstock, tmp_path: Path) -> None:
    """Kafka's own consumers, whose next poll accepts what the last one gave, are killed while they hold records: what
    they had accepted never comes again, and all else does."""
    stage = Stage(gateway, 1)
    wanted = {f"accept-{n}" for n in range(4_000)}
    stage.write(*sorted(wanted))
    members: list[JavaMember] = []

    def told(word: str) -> list[set[str]]:
        return [{line.split()[0] for line in member.told(word)} for member in members]

    try:
        for number in range(3):
            members.append(JavaMember(stage, tmp_path / f"told-{number}", "record_limit", "implicit"))
            if number < 2:
                until(lambda: len(told("done")[-1]) >= 40, within_s=STARTS_WITHIN_S, what="it is at work")
                members[-1].kill()
        until(lambda: wanted <= set().union(*told("got")), within_s=STARTS_WITHIN_S, what="all have come")
        members[-1].end()
    finally:
        for member in members:
            member.kill()

    done, got = told("done"), told("got")
    assert not done[0] & (got[1] | got[2])
    assert not done[1] & got[2]
    assert got[2] == done[2]
    assert wanted - set().union(*got) == set()
    assert stage.read(1, within_s=QUIET_S) == [], "nothing is left for others"


@pytest.mark.parametrize("gateway", [ONE], ids=["one"], indirect=True, scope="module")
def test_a_record_that_kills_its_members(gateway: Penstock, tmp_path: Path) -> None:
    """A record over which each of Kafka's own consumers dies is given up after its last delivery, and holds up no
    other."""
    stage = Stage(gateway, 1, **{"share.delivery.count.limit": str(DELIVERIES)})
    stage.write("kill-1")
    for number in range(DELIVERIES):
        member = JavaMember(stage, tmp_path / f"told-{number}", "record_limit", "implicit")
        try:
            member.dies()
        finally:
            member.kill()
        assert member.told("got") == [f"kill-1 {number + 1}"]
    stage.write("accept-1")

    assert stage.read_all(1) == ["accept-1"]


@pytest.mark.parametrize("gateway", [SEVERAL], ids=["several containers"], indirect=True, scope="module")
def test_members_of_a_partition_that_moves(gateway: Penstock, tmp_path: Path) -> None:
    """The partition goes from container to container while Kafka's own consumer and librdkafka's read it: each record
    comes once to one of them, and what they say of it is stored."""
    stage = Stage(gateway, 1)
    written = [f"accept-{n}" for n in range(200)]
    stage.write(*written)
    member = JavaMember(stage, tmp_path / "told", "record_limit", "implicit")
    try:
        until(lambda: member.told("done"), within_s=STARTS_WITHIN_S, what="it is at work")
        other, got = stage.member(), list[str]()

        def all_came() -> bool:
            got.extend(text(message) for message in other.poll(0.1) or ())
            return len(got) + len(member.told("done")) >= len(written)

        def moved_on(mover: Mover) -> None:
            before, some = mover.moved, [f"accept-{len(written) + n}" for n in range(200)]
            stage.write(*some)
            written.extend(some)
            until(lambda: all_came() and mover.moved > before, within_s=WITHIN_S, what="it has moved, and all came")

        with Mover(gateway.http, stage.topic) as mover:
            for _ in range(MOVES):
                moved_on(mover)
        other.commit_sync()
        other.close()
        member.end()
    finally:
        member.kill()

    told = [line.split() for line in member.told("got")]
    assert {deliveries for _, deliveries in told} == {"1"}
    assert sorted([*got, *(value for value, _ in told)]) == sorted(written)
    assert stage.read(1, within_s=QUIET_S) == [], "nothing is left for others"


def test_accepted_records_never_come_again(gateway: Penstock) -> None:
    """After a kill of the gateway a member gets what nobody accepted, and nothing else."""
    stage = Stage(gateway)
    stage.write(*(f"before-{n}" for n in range(50)))
    assert sorted(stage.read(50)) == sorted(f"before-{n}" for n in range(50))
    stage.write(*(f"after-{n}" for n in range(50)))

    gateway.kill()
    gateway.start()

    assert sorted(stage.read_all(50)) == sorted(f"after-{n}" for n in range(50))


def test_what_a_killed_gateway_had_lent_comes_again(gateway: Penstock) -> None:
    """Records that a member holds when the gateway is killed are not lost: they are free after their lock's time."""
    stage = Stage(gateway, 1, **{"share.record.lock.duration.ms": "5000"})
    wanted = sorted(f"r-{n}" for n in range(20))
    stage.write(*wanted)
    holder = stage.member("explicit")
    next(messages(holder))

    gateway.kill()
    gateway.start()
    holder.close()  # it may have come back, hold them again, and end before it can give them back

    assert sorted(stage.read(20)) == wanted


def test_members_share_one_partition(gateway: Penstock) -> None:
    """Two members get each record once between them."""
    stage = Stage(gateway)
    members = [stage.member(), stage.member()]
    got: list[str] = []
    ends_s = time.monotonic() + WITHIN_S
    stage.write(*(f"r-{n}" for n in range(2_000)))
    while len(got) < 2_000 and time.monotonic() < ends_s:
        for member in members:
            got += [text(message) for message in member.poll(0.2) or ()]
    for member in members:
        member.close()

    assert sorted(got) == sorted(f"r-{n}" for n in range(2_000))


def test_poison(gateway: Penstock) -> None:
    """A record that is always given back comes as often as the limit says, and holds up no other."""
    stage = Stage(gateway, **{"share.delivery.count.limit": str(DELIVERIES)})
    stage.write("poison", "good")
    member = stage.member("explicit")
    got: list[str] = []
    for message in messages(member, quiet_after=1 + DELIVERIES):
        got.append(text(message))
        is_good = text(message) == "good"
        member.acknowledge(message, AcknowledgeType.ACCEPT if is_good else AcknowledgeType.RELEASE)
    member.close()

    assert sorted(got) == ["good", *["poison"] * DELIVERIES]


def test_aborted_transactions(gateway: Penstock) -> None:
    """A group that reads what is committed gets no record of an aborted transaction."""
    stage = Stage(gateway, **{"share.isolation.level": "read_committed"})
    producer = Producer({"bootstrap.servers": gateway.address, "transactional.id": stage.topic})
    producer.init_transactions(WITHIN_S)
    for outcome in ("aborted", "committed"):
        producer.begin_transaction()
        for partition in range(2):
            producer.produce(stage.topic, outcome.encode(), partition=partition)
        (producer.abort_transaction if outcome == "aborted" else producer.commit_transaction)(WITHIN_S)

    assert stage.read_all(2) == ["committed"] * 2


@pytest.mark.parametrize("gateway", [ONE], ids=["one"], indirect=True, scope="module")
def test_kafkas_tools(gateway: Penstock) -> None:
    """Kafka's tools read, list, describe, reset and delete a share group."""
    stage = Stage(gateway)
    stage.write("one", "two")
    group, topic = ("--group", stage.group), ("--topic", stage.topic)
    read = (SHARE_CONSUMER, *topic, *group, "--max-messages", "2", "--timeout-ms", "20000")
    assert {"one", "two"} <= set(stage.tool(*read).split())
    assert stage.group in stage.tool(SHARE_GROUPS, "--list")
    assert [line.split()[1] for line in stage.tool(GROUPS, "--list").splitlines() if stage.group in line] == ["Share"]
    assert "Empty" in stage.tool(SHARE_GROUPS, "--describe", *group, "--state")
    described = stage.tool(SHARE_GROUPS, "--describe", *group, "--offsets").splitlines()
    assert [line.split()[-1] for line in described if stage.group in line] == ["0", "0"]

    stage.tool(SHARE_GROUPS, "--reset-offsets", *group, *topic, "--to-earliest", "--execute")
    assert {"one", "two"} <= set(stage.tool(*read).split())
    assert "Successful" in stage.tool(SHARE_GROUPS, "--delete-offsets", *group, *topic)
    assert {"one", "two"} <= set(stage.tool(*read).split())
    assert "successful" in stage.tool(SHARE_GROUPS, "--delete", *group)
    assert stage.group not in stage.tool(SHARE_GROUPS, "--list")
