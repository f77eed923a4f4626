"""The report's pictures, each as PNG and as SVG."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "penstock"  # the same figures make the same file

from matplotlib import pyplot  # noqa: E402 - the backend is chosen first

from bench.systems import NAMES, PENSTOCK  # noqa: E402

Series = dict[str, list[tuple[float, float]]]

SIZES: Final = {"10 B": 10, "100 B": 100, "1 KB": 1e3, "10 KB": 1e4, "100 KB": 1e5}


@dataclass(frozen=True, slots=True)
class Plot:
    """Rows whose names match; the number in the name is a point's x value."""

    file: str
    title: str
    rows: str
    across: str
    up: str = "MB/s"
    logarithmic: bool = True


SIZE: Final = "record size, bytes"
PLOTS: Final = (
    Plot("write-1", "One writer, one partition", r"write (\d+ K?B), 1 writer, 1 partition", SIZE),
    Plot("write-10", "10 writers, 16 partitions", r"write (\d+ K?B), 10 writers, 16 partitions", SIZE),
    Plot("read-1", "One reader, one partition", r"read (\d+ K?B), 1 reader, 1 partition", SIZE),
    Plot("read-10", "10 readers, 16 partitions", r"read (\d+ K?B), 10 readers, 16 partitions", SIZE),
    Plot("latency", "Produce, p99", r"produce at (\d+) MB/s of 1 KB, p99", "offered, MB/s", "ms", logarithmic=False),
    Plot("end-to-end", "End to end, p99", r"(\d+ K?B) end to end, p99", SIZE, "ms"),
    Plot("warm", "100 writers, warm", r"([\d,]+) partitions?, 100 writers, warm", "partitions"),
    Plot("first", "100 writers, first writes", r"([\d,]+) partitions?, 100 writers, first writes", "partitions"),
)


def draw(rows: list[dict[str, Any]], directory: Path) -> list[tuple[str, str]]:
    """Draw all plots that have rows; returns their names and titles."""
    drawn = []
    for plot in PLOTS:
        if series := _series(rows, plot.rows):
            _draw(plot, series, directory)
            drawn.append((plot.file, plot.title))
    return drawn


def _draw(plot: Plot, series: Series, directory: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for system in [system for system in NAMES if system in series]:
        width = 2.5 if system == PENSTOCK else 1.2
        points = zip(*sorted(series[system]), strict=True)
        axes.plot(*points, marker="o", markersize=4, linewidth=width, label=system)
    axes.set(title=plot.title, xlabel=plot.across, ylabel=plot.up, yscale="log")
    axes.set_xscale("log" if plot.logarithmic else "linear")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(directory / f"{plot.file}.{kind}", metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)


def _series(rows: list[dict[str, Any]], pattern: str) -> Series:
    """Points by system; small records' rates are drawn in MB/s as well."""
    series: dict[str, dict[float, float]] = {}
    for row in rows:
        if not (match := re.fullmatch(pattern, row["workload"])):
            continue
        place = SIZES.get(match[1]) or float(match[1].replace(",", ""))
        value = row["median"] * place / 1e6 if row["unit"] == "records/s" else row["median"]
        series.setdefault(row["system"], {})[place] = value
    return {system: list(points.items()) for system, points in series.items()}
