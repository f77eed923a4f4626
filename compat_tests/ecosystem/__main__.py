"""`python -m compat_tests.ecosystem [TOOL ...]`: run others' software against Penstock, and write the page of it.

Keeps: the page is made of `results.json`, which has the last run of each tool that went well; nobody writes either by
hand. Without arguments everything is run; a tool that fails ends the run with its output, and its former row stays with
its day.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from compat_tests.ecosystem import connect, flink, go_suites, librdkafka, sarama, spark, streams
from compat_tests.ecosystem.finding import Finding

RESULTS: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "operating" / "compatibility.md"
TOOLS: Final[dict[str, Callable[[Path], Finding]]] = {
    "connect": connect.connect,
    "mirrormaker": connect.mirror,
    "streams": streams.restored,
    "flink": flink.copy,
    "spark": spark.copy,
    "franz-go": go_suites.FRANZ_TESTS,
    "franz-go-secured": go_suites.FRANZ_SECURED_TESTS,
    "kafka-go": go_suites.KAFKA_GO_TESTS,
    "sarama": sarama.SARAMA_TESTS,
    "librdkafka-secured": librdkafka.TESTS,
}
HEAD: Final = """\
# Others' software

What is run against Penstock beside the clients of the [compatibility suite](../../compat_tests/README.md), each from
its publisher's package and as its users run it. `make ecosystem` runs it all and writes this page.

| software | version | what runs | result | run on |
|---|---|---|---|---|
"""
FOOT: Final = """
Karapace's schema registry, kafka_exporter and kminion are not in this list: they come as images and sources, and in no
package that this run could take. What they ask of a broker is tested with other clients: a compacted topic read to its
end, groups' lags by Kafka's API, and `__consumer_offsets` ([differences](differences.md)).
"""
"""What is not run, with the reason."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m compat_tests.ecosystem", description=__doc__)
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=", ".join(TOOLS))
    chosen = parser.parse_args().tools or list(TOOLS)
    if unknown := [name for name in chosen if name not in TOOLS]:
        parser.error(f"no such tool: {', '.join(unknown)}")
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"penstock-{name}-"))
        finding = TOOLS[name](scratch)
        shutil.rmtree(scratch)  # what a failed run leaves stays, to be looked at
        remember(name, finding, datetime.now(UTC).date().isoformat())
        print(_row(finding, ""), flush=True)
    return 0


def remember(name: str, finding: Finding, day: str) -> None:
    """Put a run in the place of the tool's former one, and write the page again."""
    results = {**remembered(), name: {"run": day, **asdict(finding)}}
    ordered = {tool: results[tool] for tool in TOOLS if tool in results}
    RESULTS.write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n")
    PAGE.write_text(page(ordered))


def remembered() -> dict[str, dict[str, str]]:
    """The last run of each tool: when it was, and what it showed."""
    found: dict[str, dict[str, str]] = json.loads(RESULTS.read_text())
    return found


def page(results: Mapping[str, Mapping[str, str]]) -> str:
    """The page's text."""
    rows = []
    for told in results.values():
        fields = dict(told)
        day = fields.pop("run")
        rows.append(f"{_row(Finding(**fields), day)}\n")
    return HEAD + "".join(rows) + FOOT


def _row(finding: Finding, day: str) -> str:
    return f"| {finding.tool} | {finding.version} | {finding.what} | {finding.result} | {day} |"


if __name__ == "__main__":
    sys.exit(main())
