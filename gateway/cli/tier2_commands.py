"""`penstock tier2 ls|verify|init`: what lies in long-term storage, and whether it is what the store knows.

Keeps: nothing in long-term storage is changed, save that `init` may create an identity object where there is none.
While a gateway runs on the data directory it is asked; else the directory is opened, and owned, for as long as that
takes.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from core.errors import AlreadyLocked
from core.hosted import HostedContainer
from core.offline import looked_at
from gateway import __version__, logs
from gateway.config.model import Config
from gateway.data_directory import (
    REPAIRED_FILE,
    DataDirectory,
    is_drill,
    keep_to_ourselves,
    read_serving,
    write_atomically,
)
from gateway.exits import ExitCode
from gateway.long_term.identity import IdentityRefused, create_identity, read_identity, refuse_beside
from gateway.long_term.opening import LongTermUnusable, check_settings, open_storage, place_of
from gateway.long_term.ownership import read_owner, take
from gateway.long_term.verify import Findings, Knowledge, Verification
from gateway.long_term.view import Record, tier2_chunk, tier2_records
from gateway.process.outcome import outcome
from tier2.storage import Storage

if TYPE_CHECKING:
    from rich.console import Console

CHUNKS_PATH: Final = "/api/v1/tier2/chunks"
HTTP_TIMEOUT_S: Final = 60.0
LINES_AT_ONCE: Final = 100
ROWS_SHOWN: Final = 1000
STOP_IT: Final = "Stop that gateway first; to end it by force, add `--take-over`"


class CannotAsk(LongTermUnusable):
    """A gateway runs on the data directory, and cannot be asked what it knows."""


@dataclass(frozen=True, slots=True)
class Directory:
    """What a store knows that nobody runs."""

    containers: Sequence[HostedContainer]

    def records(self) -> AsyncIterator[Record]:
        return tier2_records(self.containers)

    async def chunk(self, key: str) -> Record | None:
        return await tier2_chunk(self.containers, key)


@dataclass(frozen=True, slots=True)
class Gateway:
    """What a running gateway knows; `address` is that of its HTTP server."""

    address: str

    async def records(self) -> AsyncIterator[Record]:
        connection, answer = await asyncio.to_thread(self._get, CHUNKS_PATH)
        try:
            while lines := await asyncio.to_thread(lambda: list(islice(answer, LINES_AT_ONCE))):
                for line in lines:
                    record: Record = json.loads(line)
                    if record.get("complete"):
                        return
                    yield record
            raise CannotAsk(f"the gateway at {self.address} broke off its answer; try again")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CannotAsk(f"the gateway at {self.address} broke off its answer ({error}); try again") from error
        finally:
            connection.close()

    async def chunk(self, key: str) -> Record | None:
        connection, answer = await asyncio.to_thread(self._get, f"{CHUNKS_PATH}/{quote(key)}")
        try:
            found: Record | None = None if answer.status == 404 else json.loads(await asyncio.to_thread(answer.read))
            return found
        finally:
            connection.close()

    def _get(self, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        url = urlsplit(f"http://{self.address}")
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise CannotAsk(f"the gateway at {self.address} does not answer ({error})") from error
        if answer.status not in (200, 404):
            connection.close()
            raise CannotAsk(f"the gateway at {self.address} answers {answer.status} {answer.reason}")
        return connection, answer


def run_ls(config: Config, *, as_json: bool) -> ExitCode:
    """List partitions and chunks."""
    return _run(config, lambda: _ls(config, as_json=as_json))


def run_verify(config: Config, *, as_json: bool) -> ExitCode:
    """Read everything; exit code 1 when something is missing or damaged."""
    return _run(config, lambda: _verify(config, as_json=as_json))


def run_init(config: Config, *, take_over: bool) -> ExitCode:
    """Make the prefix this data directory's own."""
    return _run(config, lambda: _init(config, take_over=take_over))


def _run(config: Config, command: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    async def main() -> ExitCode:
        check_settings(config)
        return await command()

    logs.setup(config.logging_format, "warning")
    code = outcome(lambda: asyncio.run(main()))
    logs.flush()
    return code


@asynccontextmanager
async def _knowledge(config: Config) -> AsyncIterator[Knowledge]:
    """What the store of this data directory knows, from whoever has it."""
    path = config.data_dir.absolute()
    if not (path / "store").is_dir():
        raise LongTermUnusable(f"{path} holds no store: name the data directory with --data-dir")
    try:
        keep_to_ourselves()
        data = DataDirectory.acquire(path, __version__)
    except AlreadyLocked as locked:
        address = read_serving(path)
        if address is None:
            raise CannotAsk(f"{locked}: it cannot be asked, as it has no HTTP server (--http) or is starting") from None
        yield Gateway(address)
        return
    try:
        async with looked_at(data.store, config.store_config()) as containers:
            yield Directory(containers)
    finally:
        data.release()


async def _storage(config: Config, *, create: bool = False) -> Storage:
    storage = await open_storage(config, create=create)
    if storage is None:
        raise LongTermUnusable("tier2 = off: name the long-term storage, with --tier2")
    return storage


# ls


async def _ls(config: Config, *, as_json: bool) -> ExitCode:
    async with _knowledge(config) as knowledge:
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


async def _verify(config: Config, *, as_json: bool) -> ExitCode:
    storage = await _storage(config)
    try:
        identity = await read_identity(storage, place_of(config))
        async with _knowledge(config) as knowledge:
            findings = await Verification(storage, knowledge).run()
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


async def _init(config: Config, *, take_over: bool) -> ExitCode:
    if not (config.data_dir / "store").is_dir():
        raise LongTermUnusable(f"{config.data_dir.absolute()} holds no store: name the data directory with --data-dir")
    if is_drill(config.data_dir):
        raise LongTermUnusable(f"{config.data_dir.absolute()} is a drill's: it owns nothing in long-term storage")
    keep_to_ourselves()
    data = DataDirectory.acquire(config.data_dir, __version__)
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
    print(f"{place_of(config)} belongs to cluster {found.cluster_id}", file=sys.stdout)
    return ExitCode.CLEAN
