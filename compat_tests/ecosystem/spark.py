"""Spark's structured streaming from a topic into files, killed and started again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from compat_tests.ecosystem.finding import Finding
from compat_tests.ecosystem.running import WITHIN_S, Jvm, compiled, make, penstock, produce
from compat_tests.harness.system import Penstock
from compat_tests.harness.waiting import until

HERE: Final = Path(__file__).resolve().parent / "spark"
JARS: Final = HERE / "target" / "lib"
VERSION: Final = "4.0.0"
RECORDS: Final = 10_000
PART: Final = 1_000
"""Records that are written when the job is killed, at least."""
OPENED: Final = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang",
        "java.lang.invoke",
        "java.io",
        "java.net",
        "java.nio",
        "java.util",
        "sun.nio.ch",
        "sun.util.calendar",
    )
)


def copy(directory: Path) -> Finding:
    """Every record is in one file that Spark's log of files names, once."""
    files, checkpoints = directory / "files", directory / "checkpoints"
    with penstock(directory / "server") as server:
        make(server, "from")
        values = [f"record {number}" for number in range(RECORDS)]
        produce(server, "from", values)
        classes = compiled(HERE, JARS, directory)
        job = _job(directory, classes, server, files, checkpoints)
        try:
            until(lambda: len(_written(files)) >= PART, within_s=WITHIN_S, what="a part is written")
            job.kill()
            job = _job(directory, classes, server, files, checkpoints)
            until(lambda: len(_written(files)) >= RECORDS, within_s=WITHIN_S, what="all is written", every_s=1)
            job.assert_running()
        finally:
            job.kill()
        assert sorted(_written(files)) == sorted(values), "a record is missing or doubled"
    return Finding(
        "Spark",
        VERSION,
        "structured streaming from Kafka to files with a checkpoint, killed on the way",
        f"{RECORDS:,} records, each once",
    )


def _job(directory: Path, classes: Path, server: Penstock, files: Path, checkpoints: Path) -> Jvm:
    arguments = (server.address, "from", str(files), str(checkpoints))
    return Jvm([classes, JARS / "*"], "Copy", directory / "job", *arguments, flags=OPENED)


def _written(files: Path) -> list[str]:
    """The lines of the files that Spark's own log counts as written."""
    named: set[Path] = set()
    for log in (files / "_spark_metadata").glob("[0-9]*"):
        for line in log.read_text().splitlines()[1:]:
            named.add(Path(json.loads(line)["path"].removeprefix("file://")))
    return [line for file in named for line in file.read_text().splitlines()]
