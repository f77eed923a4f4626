"""The output for the user: a line for each interval, a bar, the final table, the files.

Keeps: if a file is stdout, nothing else goes there: the rest goes to stderr; a bar is drawn only on a terminal.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.bench.histogram import PERCENTILES
from gateway.bench.plan import Plan
from gateway.bench.totals import Figures, Totals

COLUMNS: Final = ("workload", "part", "at_s", "records", "bytes", "seconds", "records_s", "mb_s", "errors")
LATENCIES: Final = ("avg", "max", *PERCENTILES)
WIDTH: Final = 100
SHOWN: Final = ("avg", "p50", "p99", "p99_9", "max")


class Output:
    """Shows one run's figures as they come."""

    def __init__(
        self, plan: Plan, workload: str, *, interval_s: float, csv_file: str | None, json_file: str | None
    ) -> None:
        self._plan = plan
        self._workload = workload
        self._interval_s = interval_s
        self._ended_at_s = 0.0
        self._rows: list[dict[str, Any]] = []
        self._csv_file = csv_file
        self._json_file = json_file
        self._lines_to = sys.stderr if "-" in (csv_file, json_file) else sys.stdout
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._progress:
            self._bar = self._progress.add_task("warm-up", total=1)
            yield

    def tick(self, totals: Totals, measured_s: float) -> None:
        """Called now and then; `measured_s` is below 0 during the warm-up."""
        plan = self._plan
        if measured_s < 0:
            self._progress.update(self._bar, completed=1 + measured_s / max(plan.warmup, -measured_s))
            return
        done = totals.records / plan.records if plan.records else measured_s / plan.seconds
        self._progress.update(self._bar, description=plan.mode, completed=min(1.0, done))
        since = measured_s - self._ended_at_s
        if since >= self._interval_s:
            self._ended_at_s = measured_s
            figures = totals.interval(since)
            self._rows.append(self._row("interval", measured_s, figures))
            print(_line(measured_s, figures), file=self._lines_to, flush=True)

    def final(self, figures: Figures) -> None:
        self._rows.append(self._row("total", figures.seconds, figures))
        Console(width=WIDTH, file=self._lines_to).print(_table(self._workload, figures))
        if self._csv_file:
            self._write_csv(self._csv_file)
        if self._json_file:
            _put(self._json_file, json.dumps(figures.to_json(self._workload), indent=1) + "\n")

    def _row(self, part: str, at_s: float, figures: Figures) -> dict[str, Any]:
        row = figures.to_json(self._workload)
        latencies = row.pop("latency_ms")
        return {**row, "part": part, "at_s": round(at_s, 1)} | {f"{name}_ms": latencies[name] for name in LATENCIES}

    def _write_csv(self, place: str) -> None:
        fields = [*COLUMNS, *(f"{name}_ms" for name in LATENCIES)]
        text = io.StringIO()
        writer = csv.DictWriter(text, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        _put(place, text.getvalue())


def _put(place: str, text: str) -> None:
    if place == "-":
        print(text, end="")
    else:
        Path(place).write_text(text)


def _line(at_s: float, figures: Figures) -> str:
    latencies = "  ".join(f"{name.replace('_', '.')} {figures.latency_ms[name]:,.2f}" for name in SHOWN)
    errors = f"  errors {figures.errors:,}" if figures.errors else ""
    return (
        f"{at_s:6.1f} s  {figures.records:,} records  {figures.records_s:,.0f} records/s  "
        f"{figures.mb_s:,.2f} MB/s  ms: {latencies}{errors}"
    )


def _table(workload: str, figures: Figures) -> Table:
    table = Table(title=workload, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("records", f"{figures.records:,}")
    table.add_row("errors", f"{figures.errors:,}")
    table.add_row("seconds", f"{figures.seconds:,.2f}")
    table.add_row("records/s", f"{figures.records_s:,.0f}")
    table.add_row("MB/s", f"{figures.mb_s:,.2f}")
    for name in LATENCIES:
        label = name.replace("p", "percentile ", 1).replace("_", ".") if name.startswith("p") else name
        table.add_row(f"latency {label}, ms", f"{figures.latency_ms[name]:,.3f}")
    return table
