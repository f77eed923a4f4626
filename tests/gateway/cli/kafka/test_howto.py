"""docs/operating/howto.md: every command block does what the page says, in the page's order."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.launching import PENSTOCK, ROOT

pytestmark = pytest.mark.slow

PAGE: Final = (ROOT / "docs" / "operating" / "howto.md").read_text()
COMMANDS_MAX: Final = 3
"""Commands that a task may take."""


def tasks() -> list[tuple[str, str]]:
    """Heading and text of each task."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def commands(text: str) -> list[str]:
    return [line for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]


def test_short() -> None:
    """A task takes at most three commands."""
    assert len(tasks()) >= 10
    assert {heading: len(commands(text)) for heading, text in tasks() if len(commands(text)) > COMMANDS_MAX} == {}


def test_commands(tools: Tools, tmp_path: Path) -> None:
    """Every command of the page succeeds in the page's order, for a topic and a group as the page names them."""
    tools.say("profile", "create", "here", "--bootstrap", tools.address, bootstrap=False)
    tools.say("topics", "create", "orders", "-p", "3", "--set", "retention.ms=7d")
    tools.say("produce", "orders", "-k", "k1", given='{"id": 1}\n')
    tools.say("groups", "reset", "billing", "--topic", "orders", "--to", "start", "--yes")
    environ = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "PATH": f"{Path(PENSTOCK).parent}:{os.environ['PATH']}"}
    for _, text in tasks():
        for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.M | re.S):
            (tmp_path / name).write_text(content)
        for command in commands(text):
            here = command.replace("localhost:9092", tools.address)
            done = subprocess.run(
                ["bash", "-c", here], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)

    assert tools.tell("topics", "show", "orders")["configs"] == {"retention.ms": str(14 * 24 * 3_600_000)}
    assert tools.tell("topics", "show", "orders-by-day")["configs"]["max.message.bytes"] == str(2 * 1024 * 1024)
    assert len(tools.say("consume", "orders-by-day").splitlines()) >= 10
    assert "alice" in tools.say("credentials", "list")
    assert (tmp_path / "alice.secret").read_text().strip() not in tools.say("credentials", "list", "--json")
