"""`penstock recover`: makes a data directory from long-term storage when the old one is lost, and reports.

Keeps: the report names known losses, and losses that cannot be known. `gateway.long_term.recovery` does the work.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from core.tiering.snapshots.recover import Progress
from gateway import logs
from gateway.cli.recovery_report import in_json, show, told_of
from gateway.config.model import Config
from gateway.exits import ExitCode
from gateway.long_term.identity import IdentityRefused, read_identity, refuse_beside
from gateway.long_term.log_objects import refuse_where_log_is
from gateway.long_term.opening import LongTermUnusable, check_settings, open_storage, place_of
from gateway.long_term.ownership import read_owner
from gateway.long_term.recovery import Mode, make_store
from gateway.process.outcome import outcome

BESIDE_OWNER: Final = (
    "What is made here would end it when it starts. Add `--drill` for a copy that only reads there, `--take-over` to "
    "begin all the same, or stop that gateway"
)

START: Final = {
    Mode.ALONE: "start with `penstock serve` and the same flags.",
    Mode.TAKE_OVER: "start with `penstock serve --take-over` and the same flags.",
    Mode.DRILL: "a drill. Start with `penstock serve`, the same flags and other ports; delete it afterwards.",
}


def run(config: Config, *, as_json: bool, take_over: bool = False, drill: bool = False) -> ExitCode:
    """Recover, and report on standard output. `take_over`, `drill`: see `Mode`."""
    mode = Mode.DRILL if drill else Mode.TAKE_OVER if take_over else Mode.ALONE
    logs.setup_of_tool(config.logging_format)
    code = outcome(lambda: asyncio.run(_recover(config, mode, as_json=as_json)))
    logs.flush()
    return code


async def _recover(config: Config, mode: Mode, *, as_json: bool) -> ExitCode:
    check_settings(config)
    storage = await open_storage(config, create=False)
    if storage is None:
        raise LongTermUnusable("tier2 = off: name the long-term storage to recover from, with --tier2")
    try:
        identity = await read_identity(storage, place_of(config))
        if identity is None:
            raise IdentityRefused(f"{place_of(config)} holds no data of Penstock: there is no identity object")
        await refuse_where_log_is(storage, place_of(config))
        owner = await read_owner(storage)
        if mode is Mode.ALONE:
            await refuse_beside(storage, place_of(config), owner, config.data_dir, BESIDE_OWNER, locked=False)
        with _progress(quiet=as_json) as progress:
            tables, report = await make_store(config, storage, identity, mode, progress)
    finally:
        await storage.close()
    told = told_of(report, tables.groups, tables.clamped, tables.dropped, tables.transactions)
    if as_json:
        print(json.dumps(in_json(told)))
        for finding in told.findings:
            print(f"penstock: {finding}", file=sys.stderr)
    else:
        show(told, identity.cluster_id, f"{config.data_dir.absolute()} is ready: {START[mode]}")
    return ExitCode.CLEAN


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """A line on standard error, if a person looks at it."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading what chunks say of themselves", total=None)
        yield lambda what, done, total: bar.update(task, completed=done, total=total)
