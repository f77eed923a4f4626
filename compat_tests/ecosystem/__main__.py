"""`python -m compat_tests.ecosystem [TOOL ...]`: run others' software against Penstock, and write the page of it.

Keeps: the page names what was run today with its version. Without arguments everything is run; a tool that fails ends
the run with its output, and the page stays as it was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from compat_tests.ecosystem import connect, flink, go_suites, sarama, spark, streams
from compat_tests.ecosystem.finding import Finding

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
}
HEAD: Final = """\
# Others' software

What is run against Penstock beside the clients of the [compatibility suite](../../compat_tests/README.md), each from
its publisher's package and as its users run it. `make ecosystem` runs it all and writes this page.

| software | version | what runs | result |
|---|---|---|---|
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
    findings = []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"penstock-{name}-"))
        finding = TOOLS[name](scratch)
        shutil.rmtree(scratch)  # what a failed run leaves stays, to be looked at
        print(_row(finding), flush=True)
        findings.append(finding)
    if chosen == list(TOOLS):
        PAGE.write_text(page(findings))
    return 0


def page(findings: Iterable[Finding]) -> str:
    """The page's text."""
    return HEAD + "".join(f"{_row(finding)}\n" for finding in findings) + FOOT


def _row(finding: Finding) -> str:
    return f"| {finding.tool} | {finding.version} | {finding.what} | {finding.result} |"


if __name__ == "__main__":
    sys.exit(main())
