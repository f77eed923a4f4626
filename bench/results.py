"""Rows of figures: gathered sample by sample, compared pair by pair, written as JSON and a table.

Keeps: a pair are samples of one round, which were taken one right after the other, so the ratio is the median of the
pairs' ratios, and changes of the disk between pairs cancel out. A system that failed in a round has no pair of it.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


class Results:
    """Samples by (system, workload), in the order in which they first came."""

    def __init__(self, ratio_to: str | None = None, pairs: Mapping[str, Sequence[str]] | None = None) -> None:
        self._ratio_to = ratio_to
        self._pairs = pairs or {}
        self._samples: dict[tuple[str, str], tuple[str, list[float]]] = {}
        self._rounds: dict[tuple[str, str], list[int]] = {}
        self.failures: list[str] = []
        self.round = 0
        """The round whose samples are added now."""

    def keep(self, path: Path, but: tuple[str, ...]) -> None:
        """Take over an earlier run's rows, except workloads that begin with one of these words."""
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        for row in rows:
            if not row["workload"].startswith(but):
                key = row["system"], row["workload"]
                self._samples[key] = row["unit"], row["samples"]
                self._rounds[key] = row.get("rounds", [0] * len(row["samples"]))

    def go_on(self, path: Path) -> int:
        """Take over all that an earlier run measured; the first round that is due."""
        self.keep(path, ())
        self.failures.extend(json.loads(path.read_text())["failures"])
        return 1 + max((number for rounds in self._rounds.values() for number in rounds), default=-1)

    def add(self, system: str, workload: str, unit: str, value: float) -> None:
        self._samples.setdefault((system, workload), (unit, []))[1].append(round(value, 3))
        self._rounds.setdefault((system, workload), []).append(self.round)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each system and workload, and for each other system that it is compared with.

        `rounds` has the round of each of the `samples`.
        """
        return [
            {
                "system": system,
                "workload": workload,
                "unit": unit,
                "samples": samples,
                "rounds": self._rounds[system, workload],
                "median": round(statistics.median(samples), 3),
                "ratio": self._ratio(system, other, workload),
                "ratio_to": other,
            }
            for (system, workload), (unit, samples) in self._samples.items()
            for other in self._others(system, workload)
        ]

    def _others(self, system: str, workload: str) -> list[str | None]:
        wanted = self._pairs.get(system, () if self._ratio_to in (None, system) else (self._ratio_to,))
        return [other for other in wanted if (other, workload) in self._samples] or [None]

    def _ratio(self, system: str, other: str | None, workload: str) -> float | None:
        if other is None:
            return None
        mine, theirs = self._by_round(system, workload), self._by_round(other, workload)
        ratios = [mine[at] / theirs[at] for at in mine if theirs.get(at)]
        return round(statistics.median(ratios), 3) if ratios else None

    def _by_round(self, system: str, workload: str) -> dict[tuple[int, int], float]:
        """Samples by their round and their place among the round's."""
        seen: Counter[int] = Counter()
        placed: dict[tuple[int, int], float] = {}
        for number, sample in zip(self._rounds[system, workload], self._samples[system, workload][1], strict=True):
            placed[number, seen[number]] = sample
            seen[number] += 1
        return placed

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": self.rows(), "failures": self.failures}, indent=1) + "\n")

    def show(self) -> None:
        """The table, by workload, on stdout."""
        table = Table(title="penstock bench-quick", title_justify="left")
        for name in ("workload", "system", "unit"):
            table.add_column(name)
        for name in ("median", "lowest", "highest", "n", "ratio"):
            table.add_column(name, justify="right")
        for row in _by_workload(self.rows()):
            samples = row["samples"]
            figures = (row["median"], min(samples), max(samples))
            table.add_row(
                row["workload"],
                row["system"],
                row["unit"],
                *(f"{figure:,.0f}" if figure >= 100 else f"{figure:,.2f}" for figure in figures),
                str(len(samples)),
                "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            )
        console = Console(width=130)
        console.print(table)
        for failure in self.failures:
            console.print(f"failed: {failure}", markup=False)


def _by_workload(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["workload"], []).append(row)
    return [row for group in grouped.values() for row in group]
