"""Flink, whose Kafka sink makes a transaction of each checkpoint, killed and started again from the last of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compat_tests.ecosystem.finding import Finding
from compat_tests.ecosystem.running import WITHIN_S, Jvm, compiled, make, penstock, produce, read
from compat_tests.harness.system import Penstock
from compat_tests.harness.waiting import until

HERE: Final = Path(__file__).resolve().parent / "flink"
JARS: Final = HERE / "target" / "lib"
VERSION: Final = "2.1.0, connector 4.0.1-2.0"
RECORDS: Final = 10_000
PART: Final = 1_000
"""Records that are copied when the job is killed, at least."""
OPENED: Final = ("--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED")


def copy(directory: Path) -> Finding:
    """A reader of committed records finds each record of the first topic once in the second, in order."""
    checkpoints = directory / "checkpoints"
    with penstock(directory / "server") as server:
        for topic in ("from", "to"):
            make(server, topic)
        values = [f"record {number}" for number in range(RECORDS)]
        produce(server, "from", values)
        classes = compiled(HERE, JARS, directory)
        job = _job(directory, classes, server, checkpoints)
        try:
            until(lambda: len(read(server, "to")) >= PART, within_s=WITHIN_S, what="a part is copied")
            job.kill()
            job = _job(directory, classes, server, checkpoints, _newest(checkpoints))
            until(lambda: len(read(server, "to")) >= RECORDS, within_s=WITHIN_S, what="all is copied", every_s=1)
            job.assert_running()
        finally:
            job.kill()
        assert read(server, "to") == values, "a record is missing, doubled or out of order"
    return Finding(
        "Flink",
        VERSION,
        "Kafka source to exactly-once Kafka sink, killed on the way, started from its last checkpoint",
        f"{RECORDS:,} records, each once, in order",
    )


def _job(directory: Path, classes: Path, server: Penstock, checkpoints: Path, *start: Path) -> Jvm:
    arguments = (server.address, "from", "to", str(checkpoints), *map(str, start))
    return Jvm([classes, JARS / "*"], "Copy", directory / "job", *arguments, flags=OPENED)


def _newest(checkpoints: Path) -> Path:
    complete = (file.parent for file in checkpoints.glob("*/chk-*/_metadata"))
    return max(complete, key=lambda place: int(place.name.removeprefix("chk-")))
