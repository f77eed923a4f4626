"""A store's knowledge of long-term storage: asked of the running gateway, or read from the data directory.

Keeps: reading changes nothing. A directory without a running gateway is owned for as long as it is read. Who asks is
told to the gateway of this configuration alone: it proves itself by its own certificate, or listens on this machine.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from urllib.parse import quote, urlsplit

from core.errors import AlreadyLocked
from core.hosted import HostedContainer
from core.offline import looked_at
from gateway import __version__
from gateway.config.model import Config
from gateway.config.places import STORE_DIRECTORY
from gateway.data_directory import DataDirectory, keep_to_ourselves, read_serving
from gateway.disks import wanted_of
from gateway.long_term.opening import LongTermUnusable
from gateway.long_term.verify import Knowledge
from gateway.long_term.view import Record, tier2_chunk, tier2_records
from gateway.security.pem import BadPem, read_text

CHUNKS_PATH: Final = "/api/v1/tier2/chunks"
HTTP_TIMEOUT_S: Final = 60.0
LINES_AT_ONCE: Final = 100
UNAUTHORIZED: Final = 401

Proof = Callable[[], str | None]
"""The header that says who asks, if somebody is named."""


class CannotAsk(LongTermUnusable):
    """A gateway runs on the data directory, and cannot be asked."""


@dataclass(frozen=True, slots=True)
class Directory:
    """The knowledge of a store without a running process."""

    containers: Sequence[HostedContainer]

    def records(self) -> AsyncIterator[Record]:
        return tier2_records(self.containers)

    async def chunk(self, key: str) -> Record | None:
        return await tier2_chunk(self.containers, key)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The knowledge of a running gateway; `address` is that of its HTTP server, `context` its TLS, if it has any."""

    address: str
    context: ssl.SSLContext | None = None
    authorization: str | None = field(default=None, repr=False)

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
        url = urlsplit(f"//{self.address}")
        if self.context is None:
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=HTTP_TIMEOUT_S)
        else:
            connection = http.client.HTTPSConnection(
                url.hostname or "", url.port, timeout=HTTP_TIMEOUT_S, context=self.context
            )
        try:
            connection.request(
                "GET", path, headers={} if self.authorization is None else {"Authorization": self.authorization}
            )
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise CannotAsk(f"the gateway at {self.address} does not answer ({error})") from error
        if answer.status == UNAUTHORIZED:
            connection.close()
            raise CannotAsk(
                f"the gateway at {self.address} asks who you are: --user with --password-file, or --token-file"
            )
        if answer.status not in (200, 404):
            connection.close()
            raise CannotAsk(f"the gateway at {self.address} answers {answer.status} {answer.reason}")
        return connection, answer


@asynccontextmanager
async def knowledge_of(config: Config, proof: Proof) -> AsyncIterator[Knowledge]:
    """The knowledge of the store in this data directory: from its running gateway, else from the directory itself."""
    path = config.data_dir.absolute()
    if not (path / STORE_DIRECTORY).is_dir():
        raise LongTermUnusable(f"{path} holds no store: name the data directory with --data-dir")
    try:
        keep_to_ourselves()
        data = DataDirectory.acquire(path, __version__, wanted_of(config))
    except AlreadyLocked as locked:
        address = read_serving(path)
        if address is None:
            raise CannotAsk(f"{locked}: it cannot be asked, as it has no HTTP server (--http) or is starting") from None
        yield Gateway(address, _own_tls(config), proof())
        return
    try:
        async with looked_at(data.store, data.store_config(config)) as containers:
            yield Directory(containers)
    finally:
        data.release()


def _own_tls(config: Config) -> ssl.SSLContext | None:
    """TLS to whoever has the key of this configuration's certificate, by whatever name. Raises CannotAsk."""
    path = config.http_tls_keystore_location
    if path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=read_text(path))
    except (BadPem, ssl.SSLError) as wrong:
        raise CannotAsk(f"http.tls.keystore.location: {wrong}") from wrong
    return context
