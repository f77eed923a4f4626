"""TLS sessions of the HTTP server, bounded in the records that bring no data or hardly any: a client that sends many is
refused.

uvloop's TLS hands all that came to a session's `read`, 256 KiB at a time, and OpenSSL reads on behind records without
data: 10,000 changes of keys would hold the loop for 200 ms. So a session is given a few records at a time here, and
those that were no data are counted, as at Kafka's listeners (`gateway.network.idle_records`), and those that brought
less than they cost (`gateway.http.small_records`).

Keeps: OpenSSL is given all that came, in order, but for a record that is not complete.
"""

from __future__ import annotations

import ssl
import time
from typing import Any, Final, cast

from gateway.http.small_records import TOO_SMALL, SmallRecords
from gateway.network.idle_records import IDLE_RECORDS_MAX, TOO_MANY, IdleRecords
from gateway.network.tls_records import first_records

HANDSHAKE_RECORDS_MAX: Final = 64
"""Of a client, until its handshake is done: ten are many, with a chain of certificates."""
FEED_BYTES: Final = 64 * 1024
"""Bytes that OpenSSL is given at a time: its buffer never shrinks."""


class TooManyRecords(ssl.SSLError):
    """A client sends more records without data, or with hardly any, than one needs."""


class BoundedSession(ssl.SSLObject):
    """See the module. For `SSLContext.sslobject_class`."""

    _came: ssl.MemoryBIO
    _fed: ssl.MemoryBIO
    _wire: memoryview
    _given: int
    _brought: int
    _brought_bytes: int
    _shaking: int
    _idle_records: IdleRecords
    _small_records: SmallRecords

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **more: Any) -> BoundedSession:
        """As `SSLContext.wrap_bio` asks for it, with a buffer of our own before OpenSSL."""
        fed = ssl.MemoryBIO()
        session = cast(BoundedSession, cast(Any, super())._create(fed, outgoing, **more))
        session._came, session._fed = incoming, fed
        session._wire = memoryview(b"")  # what came, and OpenSSL does not have
        session._given = 0  # records that OpenSSL got since it last gave data
        session._brought = session._brought_bytes = 0  # records with data since OpenSSL got some, and their bytes
        session._shaking = HANDSHAKE_RECORDS_MAX
        session._idle_records = IdleRecords()
        session._small_records = SmallRecords()
        return session

    def pending(self) -> int:
        """More than 0 as long as something may come out: who reads stops then."""
        return super().pending() + self._fed.pending + len(self._wire)

    def do_handshake(self) -> None:
        while True:
            try:
                super().do_handshake()
            except ssl.SSLWantReadError:
                if not self._feed(1):
                    raise
                self._shaking -= 1
                if self._shaking < 0:
                    raise TooManyRecords(TOO_MANY) from None
            else:
                self._given = 0
                return

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        while True:
            try:
                data = super().read(len) if buffer is None else super().read(len, buffer)
            except ssl.SSLWantReadError:
                self._check_came(time.monotonic())
                if not self._feed(IDLE_RECORDS_MAX):
                    raise
            else:
                self._count(data)
                return data

    def _count(self, data: bytes | int) -> None:
        if self._given:  # else it is more of a record that had no room before
            self._given -= 1
            self._brought += 1
        self._brought_bytes += data if isinstance(data, int) else len(data)

    def _check_came(self, now_s: float) -> None:
        """Of what OpenSSL was given there is nothing left: were there too many records for what they brought? Raises
        TooManyRecords."""
        idle, self._given = self._given, 0
        if idle and not self._idle_records.allow(idle, now_s):
            raise TooManyRecords(TOO_MANY) from None
        brought, size = self._brought, self._brought_bytes
        self._brought = self._brought_bytes = 0
        if brought and not self._small_records.allow(brought, size, now_s):
            raise TooManyRecords(TOO_SMALL) from None

    def _feed(self, most: int) -> bool:
        """Give OpenSSL the next whole records, up to a number; False if there is none."""
        size, count = first_records(self._wire, most, FEED_BYTES)
        if not size and self._came.pending:
            self._wire = memoryview(bytes(self._wire) + self._came.read())
            size, count = first_records(self._wire, most, FEED_BYTES)
        self._fed.write(self._wire[:size])
        self._wire = self._wire[size:]
        self._given += count
        return size > 0
