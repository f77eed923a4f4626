"""`penstock doctor`: looks at all that a gateway needs, and says what to do.

Keeps: the findings alone go to standard output; exit code 0 only without failures.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import typer

from gateway.cli.options import SERVING, AsJson, File, Settings, configured
from gateway.cli.output import Output
from gateway.cli.refused import run
from gateway.exits import ExitCode

if TYPE_CHECKING:
    from gateway.cli.doctor_facts import Finding

app = typer.Typer(rich_markup_mode=None)


@app.command("doctor", short_help="Look at ports, disks, clock, long-term storage: what is wrong, and what to do.")
@configured(*SERVING)
def doctor(settings: Settings, file: File = None, as_json: AsJson = False) -> None:
    """Look at all that a gateway needs, also beside one that runs: what is wrong, and what to do.

    Takes the flags of `serve`. Long-term storage is tried with scratch objects, which are removed. Exit code 0 without
    failures, 1 with one, 2 if the configuration does not load.
    """
    sys.exit(run(lambda: _doctor(settings.over(file), Output(as_json=as_json))))


def _doctor(settings: Settings, output: Output) -> ExitCode:
    from gateway.cli.doctor_examination import examine
    from gateway.cli.doctor_facts import exit_code, failure
    from gateway.config.layers import ConfigError

    logging.disable(logging.CRITICAL)  # the findings say it
    try:
        config = settings.read()
    except ConfigError as wrong:
        advice = "correct it; `penstock config` lists the keys"
        show(output, [failure("configuration", problem, advice) for problem in wrong.problems])
        return ExitCode.CONFIGURATION
    with output.progress("looking"):
        found = examine(config)
    show(output, found)
    return exit_code(found)


def show(output: Output, findings: list[Finding]) -> None:
    """Print them: for people what is wrong stands with its remedy."""
    from gateway.cli.doctor_facts import Level

    failures = sum(one.level is Level.FAILURE for one in findings)
    warnings = sum(one.level is Level.WARNING for one in findings)
    if output.as_json:
        output.result({"healthy": not failures, "findings": [one.as_json() for one in findings]})
        return
    for line in lines_of(findings):
        output.line(line)
    output.line(f"{len(findings)} findings: {failures} failures, {warnings} warnings")


def lines_of(findings: list[Finding]) -> list[str]:
    """One line for a finding, and one for its remedy."""
    lines = []
    for one in findings:
        lines.append(f"{one.level.value:<8} {one.check}: {one.what}")
        if one.advice:
            lines.append(f"{'':<8} -> {one.advice}")
    return lines
