"""The comparison's figures: ratios pair by pair, goals, and a report that hides nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.goals import goals
from bench.report import write_report
from bench.results import Results
from bench.systems import COMPARED, KAFKA, KAFKA_FLUSHED, PENSTOCK

SINGLE = "single-record requests, 64 in flight"


@pytest.fixture
def results() -> Results:
    """Three rounds; in the last one the machine was half as fast, for everybody."""
    made = Results(pairs=COMPARED)
    runs = ((30_000, 3_000, 20_000), (32_000, 4_000, 16_000), (15_000, 1_500, 10_000))
    for number, (penstock, flushed, default) in enumerate(runs):
        made.round = number
        made.add(PENSTOCK, SINGLE, "requests/s", penstock)
        made.add(KAFKA_FLUSHED, SINGLE, "requests/s", flushed)
        made.add(KAFKA, SINGLE, "requests/s", default)
    return made


class TestRows:
    def test_ratio_is_of_pairs(self, results: Results) -> None:
        """A ratio is the median of the rounds' ratios, so that a slow round does not count against anybody."""
        ratios = {row["ratio_to"]: row["ratio"] for row in results.rows() if row["system"] == PENSTOCK}

        assert ratios == {KAFKA_FLUSHED: 10.0, KAFKA: 1.5}

    def test_a_system_that_failed_in_a_round(self, results: Results) -> None:
        """The sample after a failure is not held against another round's."""
        results.round = 3
        results.add(PENSTOCK, SINGLE, "requests/s", 40_000)
        results.round = 4
        results.add(PENSTOCK, SINGLE, "requests/s", 20_000)
        results.add(KAFKA, SINGLE, "requests/s", 1_000)
        ratios = {row["ratio_to"]: row["ratio"] for row in results.rows() if row["system"] == PENSTOCK}

        assert ratios == {KAFKA_FLUSHED: 10.0, KAFKA: 1.75}

    def test_rounds_are_added_to_an_earlier_run(self, results: Results, tmp_path: Path) -> None:
        """A run that goes on has the earlier one's samples and failures, and counts its rounds from there."""
        results.failures.append("tail on kafka: no answer")
        results.write(tmp_path / "latest.json")
        more = Results(pairs=COMPARED)

        assert more.go_on(tmp_path / "latest.json") == 3
        assert more.rows() == results.rows()
        assert more.failures == results.failures

    def test_shape(self, results: Results) -> None:
        """Every row has the same eight fields."""
        for row in results.rows():
            assert list(row) == ["system", "workload", "unit", "samples", "rounds", "median", "ratio", "ratio_to"]

    def test_nothing_to_compare_with(self, results: Results) -> None:
        """A system that is only compared with has one row, without a ratio."""
        rows = [row for row in results.rows() if row["system"] == KAFKA]

        assert [(row["ratio"], row["ratio_to"]) for row in rows] == [(None, None)]


class TestGoals:
    def test_reached_and_missed(self, results: Results) -> None:
        """10 is at least 6, 1.5 is not at least 1.8."""
        judged = {goal.other: goal.reached for goal in goals(results.rows()) if goal.measured is not None}

        assert judged == {KAFKA_FLUSHED: True, KAFKA: False}


class TestReport:
    def test_says_what_is_in_the_file(self, results: Results, tmp_path: Path) -> None:
        """Medians, goals reached and missed, and what failed."""
        content = {"machine": {"cpus": 2}, "rows": results.rows(), "failures": ["single on pravega: no answer"]}
        (tmp_path / "latest.json").write_text(json.dumps(content))

        report = write_report(tmp_path).read_text()

        assert f"| {SINGLE} | requests/s | 30,000 | 3,000 | 16,000 |" in report
        assert f"| {SINGLE} | penstock | kafka flush.messages=1 | ≥ 6 | 10.00 | reached |" in report
        assert f"| {SINGLE} | penstock | kafka | ≥ 1.8 | 1.50 | **missed** |" in report
        assert "single on pravega: no answer" in report

    def test_pictures(self, tmp_path: Path) -> None:
        """A plot, as PNG and as SVG, for results with points; none for results without."""
        made = Results()
        for size, figure in (("100 B", 2_000_000), ("1 KB", 400)):
            unit = "records/s" if size == "100 B" else "MB/s"
            made.add(PENSTOCK, f"write {size}, 1 writer, 1 partition", unit, figure)
        (tmp_path / "latest.json").write_text(json.dumps({"machine": {}, "rows": made.rows(), "failures": []}))

        write_report(tmp_path)

        assert sorted(file.name for file in tmp_path.glob("*.*g")) == ["write-1.png", "write-1.svg"]
