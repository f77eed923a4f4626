"""docs/operating/howto.md: every command block does what the page says, in the page's order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.launching import PENSTOCK, ROOT, serving
from tests.gateway.process.test_machines import Cluster, cluster, etcd
from tests.tier2.conftest import bucket, minio

__all__ = ["bucket", "cluster", "etcd", "minio"]

pytestmark = pytest.mark.slow

PAGE: Final = (ROOT / "docs" / "operating" / "howto.md").read_text()
COMMANDS_MAX: Final = 3
"""Commands that a task may take."""
DRAIN: Final = "Drain a machine"
RECOVER: Final = "Recover from long-term storage"
WITHIN_S: Final = 90.0


def tasks() -> list[tuple[str, str]]:
    """Heading and text of each task."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def commands(text: str) -> list[str]:
    return [line for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]


def run(command: str, here: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in a directory, which has the tools' profiles too."""
    path = f"{Path(PENSTOCK).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "XDG_CONFIG_HOME": str(here), "PATH": path}
    return subprocess.run(
        ["bash", "-c", command], cwd=here, env=environ, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )


def newest_s(objects: Path, kind: str) -> float:
    """When the newest object of a kind was stored; 0 if there is none."""
    return max((path.stat().st_mtime for path in objects.glob(f"{kind}/*/*")), default=0.0)


def test_short() -> None:
    """A task takes at most three commands."""
    assert len(tasks()) >= 10
    assert {heading: len(commands(text)) for heading, text in tasks() if len(commands(text)) > COMMANDS_MAX} == {}


@pytest.mark.timeout(480)
def test_commands(tools: Tools, tmp_path: Path) -> None:
    """Every command of the page succeeds in the page's order, for a topic and a group as the page names them.

    Those that end a gateway are tested below.
    """
    tools.say("profile", "create", "here", "--bootstrap", tools.address, bootstrap=False)
    tools.say("topics", "create", "orders", "-p", "3", "--set", "retention.ms=7d")
    tools.say("produce", "orders", "-k", "k1", given='{"id": 1}\n')
    tools.say("groups", "reset", "billing", "--topic", "orders", "--to", "start", "--yes")
    for heading, text in tasks():
        if heading in (DRAIN, RECOVER):
            continue
        for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.M | re.S):
            (tmp_path / name).write_text(content)
        for command in commands(text):
            done = run(command.replace("localhost:9092", tools.address), tmp_path)
            assert done.returncode == 0, (command, done.stdout, done.stderr)

    assert tools.tell("topics", "show", "orders")["configs"] == {"retention.ms": str(14 * 24 * 3_600_000)}
    assert tools.tell("topics", "show", "orders-by-day")["configs"]["max.message.bytes"] == str(2 * 1024 * 1024)
    assert len(tools.say("consume", "orders-by-day").splitlines()) >= 10
    assert "alice" in tools.say("credentials", "list")
    assert (tmp_path / "alice.secret").read_text().strip() not in tools.say("credentials", "list", "--json")


def test_drain(cluster: Cluster, tmp_path: Path) -> None:
    """The node ends cleanly, and the other one has all partitions."""
    cluster.start(1)
    cluster.make_topic(1)
    cluster.start(2)
    cluster.until_led_by(2, {1, 2})
    Tools(cluster.addresses[2], tmp_path).say(
        "profile", "create", "here", "--bootstrap", cluster.addresses[2], bootstrap=False
    )
    drained = cluster.nodes[1]
    data = drained.ready()["data_dir"]
    threading.Thread(target=drained.process.wait).start()  # as its parent; until then it would seem to be there
    end, wait, look = (one.replace("/var/lib/penstock", data) for one in commands(dict(tasks())[DRAIN]))
    for command in (end, wait):
        done = run(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert drained.process.wait() == 0

    deadline = time.monotonic() + WITHIN_S
    while (done := run(look, tmp_path)).returncode != 0:
        assert time.monotonic() < deadline, (done.stdout, done.stderr)
    assert set(cluster.leaders(2).values()) == {2}
    assert "broker 1 is fenced" in done.stdout
    assert "healthy: 1 broker" in done.stdout


def test_recover(tmp_path: Path) -> None:
    """The records that were in long-term storage are there again, in a gateway on the new directory."""
    lost, objects, new = tmp_path / "lost", tmp_path / "objects", tmp_path / "new"
    (tmp_path / "penstock.toml").write_text(f'tier2 = "file:{objects}"\n')
    settings = ("--tier2", f"file:{objects}", "--set", "chunk.age.ms=100", "--set", "tier2.snapshot.interval.ms=1000")
    with serving(lost, *settings) as running:
        tools = Tools(running.ready()["kafka"][0], tmp_path)
        tools.say("topics", "create", "orders", "-p", "1")
        tools.say("produce", "orders", given="here\n")
        deadline = time.monotonic() + WITHIN_S
        while not (chunk_s := newest_s(objects, "chunks")) or newest_s(objects, "meta") <= chunk_s:
            assert time.monotonic() < deadline, "no snapshot has followed a chunk"
            time.sleep(0.05)
    shutil.rmtree(lost)

    for command in commands(dict(tasks())[RECOVER]):
        done = run(command.replace("/var/lib/penstock-new", str(new / "data")), tmp_path)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    with serving(new, "--tier2", f"file:{objects}") as running:
        found = Tools(running.ready()["kafka"][0], tmp_path).say("consume", "orders")
    assert found.split() == ["here"]
