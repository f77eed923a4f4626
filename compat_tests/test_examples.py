"""Every program of `examples/` does what it says, with the server of this run and the versions that it names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from compat_tests.harness.system import JARS, System

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
HERE: Final = Path(__file__).resolve().parent
RUN_S_MAX: Final = 100
LINE: Final = re.compile(r"read (\d+)@(\d+): (.+) = (.+)")

PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    **{
        f"python/with_{client}.py": (sys.executable, f"with_{client}.py")
        for client in ("kafka_python", "aiokafka", "confluent_kafka")
    },
    "java/Greetings.java": ("java", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", "Greetings.java"),
    "go/main.go": ("go", "run", "."),
    "node/greetings.js": ("node", "greetings.js"),
}


def run(program: str, server: System, topic: str) -> list[tuple[str, ...]]:
    """Partition, offset, key and value of each record that it read."""
    done = subprocess.run(
        [*PROGRAMS[program], topic],
        cwd=(EXAMPLES / program).parent,
        env={**os.environ, "BOOTSTRAP": server.address, "NODE_PATH": str(HERE / "node" / "node_modules")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [found.groups() for line in done.stdout.splitlines() if (found := LINE.fullmatch(line))]


def test_all_are_run() -> None:
    """A program that is added is run."""
    suffixes = {".py", ".java", ".go", ".js"}
    built = {"node_modules", "target"}
    there = {
        path.relative_to(EXAMPLES).as_posix()
        for path in EXAMPLES.rglob("*.*")
        if path.suffix in suffixes and not built & set(path.parts)
    }

    assert there == PROGRAMS.keys()


@pytest.mark.timeout(3 * RUN_S_MAX)
@pytest.mark.parametrize("program", PROGRAMS)
def test_program(system: System, program: str) -> None:
    """It reads the ten records that it wrote; the second time not again those of the first, since it committed."""
    topic = "greetings-" + re.sub(r"\W+", "-", program)
    written = sorted((f"key {n}", f"hello {n}") for n in range(10))

    first, second = (run(program, system, topic) for _ in range(2))

    assert sorted(read[2:] for read in first) == written
    assert sorted(read[2:] for read in second) == written
    assert {read[:2] for read in first} & {read[:2] for read in second} == set()


def test_versions() -> None:
    """The versions that the examples ask for are those that they are run with here."""
    lines = (EXAMPLES / "python/requirements.txt").read_text().splitlines()
    python = [Requirement(line) for line in lines if not line.startswith("#")]
    kafka = re.compile(r"<kafka\.version>(.+)</kafka\.version>")
    node = json.loads((EXAMPLES / "node/package.json").read_text())["dependencies"]

    assert len(python) == 3
    assert [one.name for one in python if version(one.name) not in one.specifier] == []
    assert kafka.findall((EXAMPLES / "java/pom.xml").read_text()) == kafka.findall((HERE / "java/pom.xml").read_text())
    assert node.items() <= json.loads((HERE / "node/package.json").read_text())["dependencies"].items()
