"""The report: the figures of `latest.json`, for people.

Keeps: every figure of the report is in the file; a missed goal is listed like one that was reached.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from bench import flame, machine
from bench.comparison import IDLE_CONNECTIONS
from bench.goals import Goal, goals
from bench.plots import draw
from bench.pravega_server import JVM as PRAVEGA_JVM
from bench.pravega_server import SETTINGS as PRAVEGA_SETTINGS
from bench.servers import Kafka
from bench.systems import NAMES, PENSTOCK

# Headings and the first words of their rows: a row goes under the first heading that fits.
SECTIONS: Final = (
    ("Writing, as fast as it goes", ("write ",)),
    ("Reading", ("read ", "tail consumer", "catch-up")),
    ("Latency of produce at a fixed rate", ("produce at",)),
    ("From end to end", ("10 B end", "100 B end", "1 KB end", "10 KB end", "100 KB end")),
    ("Partitions", ("1 partition", "100 partitions", "1,000 partitions", "5,000 partitions")),
    ("Single-record requests", ("single-record",)),
    ("Idle connections, start-up, memory", (f"{IDLE_CONNECTIONS:,} idle", "start-up", "memory")),
)
METHOD: Final = Path(__file__).resolve().parent / "method.md"


def write_report(directory: Path) -> Path:
    """`report.md` and its pictures, from `latest.json` in the same directory."""
    content = json.loads((directory / "latest.json").read_text())
    rows = content["rows"]
    lines = ["# Penstock beside Apache Kafka and Pravega", ""]
    described = content["machine"]
    lines += [", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in described.items()) + ".", ""]
    rounds = max(len(row["samples"]) for row in rows)
    lines += [f"Rounds: {rounds}. `make bench` repeats all of it; every sample is in `latest.json`.", ""]
    lines += ["## How it is measured", "", *_method(), ""]
    lines += ["## Goals", "", *_goals(list(goals(rows))), ""]
    lines += ["## Figures", ""]
    for heading, starts in SECTIONS:
        lines += _section(heading, [row for row in rows if _section_of(row["workload"]) == starts])
    lines += _machine(rows)
    for name, title in draw(rows, directory):
        lines += [f"![{title}]({name}.png)", ""]
    lines += _profiles(directory)
    if (misses := directory / "misses.md").exists():
        lines += ["## What is missed, and why", "", *misses.read_text().splitlines(), ""]
    lines += _failures(content["failures"])
    report = directory / "report.md"
    report.write_text("\n".join(lines).rstrip() + "\n")
    return report


def _method() -> list[str]:
    text = METHOD.read_text().format(
        kafka_jvm=" ".join(Kafka.JVM),
        kafka_settings=" ".join(f"{key}={value}" for key, value in Kafka.SETTINGS.items()),
        pravega_jvm=" ".join(PRAVEGA_JVM),
        pravega_settings=" ".join(f"{key}={value}" for key, value in PRAVEGA_SETTINGS.items()),
    )
    return text.splitlines()


def _section_of(workload: str) -> tuple[str, ...] | None:
    return next((starts for _, starts in SECTIONS if workload.startswith(starts)), None)


def _goals(every: list[Goal]) -> Iterator[str]:
    reached = sum(goal.reached for goal in every)
    yield f"{reached} of {len(every)} are reached in this run."
    yield ""
    yield from _table(
        ("work", "who", "against", "goal", "measured", ""),
        (
            (
                goal.workload,
                goal.system,
                goal.other,
                f"{goal.sign} {goal.bound:.3g}",
                "no sample" if goal.measured is None else f"{goal.measured:.2f}",
                "" if goal.measured is None else "reached" if goal.reached else "**missed**",
            )
            for goal in every
        ),
    )


def _section(heading: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    rows = [row for row in rows if row["system"] != machine.SYSTEM]
    if not rows:
        return
    systems = [name for name in NAMES if any(row["system"] == name for row in rows)]
    medians = {(row["workload"], row["system"]): row["median"] for row in rows}
    units = {row["workload"]: row["unit"] for row in rows}
    yield from (f"### {heading}", "")
    yield from _table(
        ("", "unit", *systems),
        (
            (workload, unit, *(_figure(medians.get((workload, system))) for system in systems))
            for workload, unit in units.items()
        ),
    )
    yield ""


def _machine(rows: list[dict[str, Any]]) -> Iterator[str]:
    own = [row for row in rows if row["system"] == machine.SYSTEM]
    yield from ("### The machine's own limits", "")
    yield from _table(
        ("", "unit", "median", "lowest", "highest"),
        (
            (row["workload"], row["unit"], *map(_figure, (row["median"], min(row["samples"]), max(row["samples"]))))
            for row in own
        ),
    )
    disk = next((row["median"] for row in own if row["workload"] == "disk, 1 MiB write + fdatasync"), None)
    written = [row for row in rows if row["system"] == PENSTOCK and row["workload"].startswith("write")]
    if disk and (best := [row for row in written if row["unit"] == "MB/s"]):
        top = max(best, key=lambda row: row["median"])
        yield ""
        share = f"{top['median'] / disk:.0%}"
        yield f"Penstock's fastest row, {top['workload']}, is {share} of the disk's own synced writes of 1 MiB."
    yield ""


def _profiles(directory: Path) -> Iterator[str]:
    shares = flame.kept(directory)
    if not shares:
        return
    yield from ("## Where the gateway's time goes", "")
    yield "Samples by py-spy: own time of the heaviest functions of the thread that serves the connections."
    yield "`Runner.run` is the event loop itself, which is C."
    yield ""
    for work, functions in shares.items():
        yield f"**{work}** ([flame graph](flame-{work}.svg)): " + ", ".join(
            f"{share:.0%} `{function}`" for function, share in functions.items()
        )
        yield ""


def _failures(failures: list[str]) -> Iterator[str]:
    if failures:
        yield from ("## What was not carried out", "")
        yield from (f"- {failure.splitlines()[0]}" for failure in failures)


def _table(head: tuple[str, ...], body: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in body:
        yield f"| {' | '.join(row)} |"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - a dash for no figure
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
