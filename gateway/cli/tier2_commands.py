"""`penstock tier2 ls|verify|init`: list long-term storage, check it against the store, make a prefix ours.

Keeps: nothing in long-term storage is changed, except that `init` creates a missing identity object.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from gateway import __version__, logs
from gateway.cli.output import Output
from gateway.cli.refused import run as run_refused
from gateway.config.model import Config
from gateway.data_directory import (
    REPAIRED_FILE,
    DataDirectory,
    is_drill,
    keep_to_ourselves,
)
from gateway.disks import wanted_of
from gateway.durable_files import write_atomically
from gateway.exits import ExitCode
from gateway.long_term.identity import IdentityRefused, create_identity, read_identity, refuse_beside
from gateway.long_term.knowledge import Proof, knowledge_of
from gateway.long_term.opening import LongTermUnusable, check_settings, open_storage, place_of
from gateway.long_term.ownership import read_owner, take
from gateway.long_term.verify import Findings, Verification
from gateway.long_term.view import Record
from gateway.process.outcome import outcome
from tier2.storage import Storage

if TYPE_CHECKING:
    from rich.console import Console

ROWS_SHOWN: Final = 1000
STOP_IT: Final = "Stop that gateway first; to end it by force, add `--take-over`"


def run_ls(config: Config, proof: Proof, *, as_json: bool) -> ExitCode:
    """List partitions and chunks."""
    return _run(config, lambda: _ls(config, proof, as_json=as_json))


def run_verify(config: Config, proof: Proof, *, as_json: bool) -> ExitCode:
    """Read all chunks; exit code 1 if something is missing or damaged."""
    return _run(config, lambda: _verify(config, proof, as_json=as_json))


def run_init(config: Config, told: Output, *, take_over: bool, yes: bool) -> ExitCode:
    """Make the prefix this data directory's own, with a yes."""

    def init() -> ExitCode:
        lost = "what lay there before, or another copy of its data has put there since, is lost"
        told.confirm(f"{place_of(config)} becomes that of {config.data_dir.absolute()}: {lost}", yes=yes)
        return _run(config, lambda: _init(config, told, take_over=take_over))

    return run_refused(init)


def _run(config: Config, command: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    async def main() -> ExitCode:
        check_settings(config)
        return await command()

    logs.setup_of_tool(config.logging_format)
    code = outcome(lambda: asyncio.run(main()))
    logs.flush()
    return code


async def _storage(config: Config, *, create: bool = False) -> Storage:
    storage = await open_storage(config, create=create)
    if storage is None:
        raise LongTermUnusable("tier2 = off: name the long-term storage, with --tier2")
    return storage


# ls


async def _ls(config: Config, proof: Proof, *, as_json: bool) -> ExitCode:
    async with knowledge_of(config, proof) as knowledge:
        topics: dict[str, list[Record]] = {}
        chunks: list[Record] = []
        async for record in knowledge.records():
            if "topic" in record:
                topics.setdefault(record["topic"], []).extend(record["partitions"])
            else:
                chunks.append(record)
    chunks.sort(key=lambda chunk: chunk["chunk"])
    if as_json:
        print(json.dumps({"streams": _streams(topics), "chunks": [_listed(chunk) for chunk in chunks]}))
    else:
        _show_listing(place_of(config), topics, chunks)
    return ExitCode.CLEAN


def _streams(topics: dict[str, list[Record]]) -> list[Record]:
    return [
        {
            "name": name,
            "partitions": [{field: one[field] for field in ("id", "start", "end")} for one in partitions],
        }
        for name, partitions in sorted(topics.items())
    ]


def _listed(chunk: Record) -> Record:
    fields = ("topic", "partition", "first", "end", "length")
    return {
        "key": chunk["chunk"],
        "state": chunk["state"],
        "bytes": chunk["bytes"],
        "created_ms": chunk["created_ms"],
        "runs": [{field: run[field] for field in fields} for run in chunk["runs"]],
    }


def _show_listing(place: str, topics: dict[str, list[Record]], chunks: list[Record]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(highlight=False)
    streams = Table("topic", "partition", "start", "in long-term storage up to")
    rows = [(name, one) for name, some in sorted(topics.items()) for one in some if one["end"] > one["start"]]
    for name, one in rows[:ROWS_SHOWN]:
        streams.add_row(Text(name), str(one["id"]), str(one["start"]), str(one["end"]))
    console.print(streams)
    listed = Table(Column("chunk", no_wrap=True), "state", "bytes", Column("holds", overflow="fold"))
    for chunk in chunks[:ROWS_SHOWN]:
        held = ", ".join(f"{run['topic']}-{run['partition']} {run['first']}..{run['end'] - 1}" for run in chunk["runs"])
        listed.add_row(chunk["chunk"], chunk["state"], str(chunk["bytes"]), Text(_shortened(held)))
    console.print(listed)
    left = max(0, len(rows) - ROWS_SHOWN) + max(0, len(chunks) - ROWS_SHOWN)
    if left:
        console.print(f"and {left} rows more: use --json to see all", markup=False)
    size = sum(chunk["bytes"] for chunk in chunks)
    console.print(f"{place}: {len(chunks)} chunks, {size} bytes", markup=False, soft_wrap=True)


def _shortened(text: str, chars_max: int = 200) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]} …"


# verify


async def _verify(config: Config, proof: Proof, *, as_json: bool) -> ExitCode:
    storage = await _storage(config)
    try:
        identity = await read_identity(storage, place_of(config))
        async with knowledge_of(config, proof) as knowledge:
            with Output(as_json=as_json).progress("chunks") as advance:
                findings = await Verification(storage, knowledge, advance).run()
    finally:
        await storage.close()
    if identity is None and findings.chunks:
        findings.missing.append("identity.json")
    if as_json:
        print(json.dumps(findings.as_json()))
    else:
        from rich.console import Console

        _show_findings(Console(highlight=False), place_of(config), findings)
    return ExitCode.CLEAN if findings.is_whole else ExitCode.UNEXPECTED


def _show_findings(console: Console, place: str, findings: Findings) -> None:
    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    report: dict[str, Any] = findings.as_json()
    for key in report["missing"]:
        say(f"missing   {key}")
    for one in report["damaged"]:
        say(f"damaged   {one['key']}: {one['error']}")
    for key in report["orphaned"]:
        say(f"orphaned  {key}: the store does not know it")
    wrong = len(findings.missing) + len(findings.damaged)
    verdict = f"{wrong} things are wrong; put the objects back from a backup" if wrong else "all of it is as it was put"
    say(f"{place}: {findings.chunks} chunks, {findings.bytes} bytes read, {verdict}")


# init


async def _init(config: Config, told: Output, *, take_over: bool) -> ExitCode:
    if not (config.data_dir / "store").is_dir():
        raise LongTermUnusable(f"{config.data_dir.absolute()} holds no store: name the data directory with --data-dir")
    if is_drill(config.data_dir):
        raise LongTermUnusable(f"{config.data_dir.absolute()} is a drill's: it owns nothing in long-term storage")
    keep_to_ourselves()
    data = DataDirectory.acquire(config.data_dir, __version__, wanted_of(config))
    try:
        storage = await _storage(config, create=True)
        try:
            if not take_over:
                owner = await read_owner(storage)
                await refuse_beside(storage, place_of(config), owner, data.path, STOP_IT, locked=True)
            found = await create_identity(storage, place_of(config), data.cluster_id)
            if found.cluster_id == data.cluster_id:
                await asyncio.to_thread(write_atomically, data.path / REPAIRED_FILE, b"")
                await take(storage, data.path, await read_owner(storage))
        finally:
            await storage.close()
    finally:
        data.release()
    if found.cluster_id != data.cluster_id:
        raise IdentityRefused(f"{place_of(config)} belongs to cluster {found.cluster_id}: nothing there was changed")
    if told.as_json:
        told.result({"place": place_of(config), "cluster_id": found.cluster_id})
    else:
        told.line(f"{place_of(config)} belongs to cluster {found.cluster_id}")
    return ExitCode.CLEAN
