"""TLS between a connection and its socket: what the connection sends leaves encrypted, what it reads was decrypted.

OpenSSL works on two memory buffers here, and not on the socket. So the costly steps of a handshake, or the encryption
of a large answer, run in a thread; meanwhile nothing else touches the session, and bytes that arrive wait.

Invariants:
- Nothing reaches the socket but what OpenSSL made. The path of plain answers (`Outgoing`) is not used.
- One party at a time works on a session: the loop, or one thread (`_is_busy`).
- The bytes that wait are bounded and charged: those that arrived, to the receive budget; those to be sent, to the
  output budget, as the connection counts `get_write_buffer_size`.
- A failure ends in one log line, a counter, and an alert to the peer where TLS has one.
- What a client's records cost is its party's time on the loop, as its requests are: who had its share waits for its
  turn before more is decrypted. Records without data, which cost most, have a bound of their own (`idle_records`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, cast

from gateway.network.host import Host
from gateway.network.idle_records import TOO_MANY, IdleRecords
from gateway.network.outgoing import Outgoing
from gateway.network.response_slot import Part
from gateway.network.sessions import FEED_BYTES, Session, wrapped
from gateway.network.tls_records import HANDSHAKE, are_sealed, whole_records
from gateway.security.principal import Principal
from gateway.security.tls import NoPrincipal

logger = logging.getLogger(__name__)

WIRE_BYTES: Final = 128 * 1024
"""Bytes that are received at a time, into a buffer that all connections share."""
SEAL_BYTES: Final = 64 * 1024
"""Bytes of answers that the loop encrypts at a time: the client decrypts them while the next ones are encrypted."""
SEAL_ASIDE_BYTES: Final = 256 * 1024
"""The same of a thread. No more than these lie encrypted before the socket takes them."""
ASIDE_BYTES_MIN: Final = 2 * 1024 * 1024
"""From so many waiting bytes on they are encrypted in a thread: on the loop, which does it at two thirds of the cost,
these take some 2 ms."""

_now: Final = time.perf_counter


class Upper(Protocol):
    """The connection above."""

    closed: bool
    principal: Principal

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def get_buffer(self, sizehint: int) -> memoryview: ...

    def buffer_updated(self, nbytes: int) -> None: ...

    def eof_received(self) -> bool: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def refuse(self, reason: str) -> None: ...

    def has_turn(self) -> bool:
        """May more be done for the peer in this round of the loop? If not, reading is paused until it may."""
        ...

    def spent(self, seconds: float) -> None:
        """What the peer sent held the loop for so long."""
        ...

    def sealed(self, seconds: float) -> None:
        """What it is sent held the loop for so long."""
        ...


class ServerTls(Protocol):
    """How a listener encrypts, and learns from certificates who is there."""

    @property
    def listener(self) -> str: ...

    @property
    def context(self) -> ssl.SSLContext: ...

    @property
    def asks_for_certificates(self) -> bool: ...

    def principal_of(self, der: bytes | None) -> Principal:
        """Raises NoPrincipal."""
        ...


class TlsWorkers:
    """Shared by all TLS connections of a server: threads, a buffer, and counters."""

    def __init__(self) -> None:
        self.wire = bytearray(WIRE_BYTES)
        self.wire_view = memoryview(self.wire)
        self.handshaker = ThreadPoolExecutor(1, "tls-handshakes")
        self.sealer = ThreadPoolExecutor(1, "tls-answers")
        self.handshakes = 0
        self.resumed = 0
        self.failures = 0
        self.handshaking = 0

    def close(self) -> None:
        self.handshaker.shutdown(wait=False)
        self.sealer.shutdown(wait=False)


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """See the module. The protocol of the socket's transport, and the transport of a `Connection`."""

    def __init__(
        self, upper: Upper, tls: ServerTls, host: Host, workers: TlsWorkers, *, names_users: bool = True
    ) -> None:
        """`names_users`: a client is who its certificate says; else SASL says it."""
        super().__init__()
        self._names_users = names_users
        self._upper = upper
        self._tls = tls
        self._host = host
        self._workers = workers
        self._raw: asyncio.Transport = cast(asyncio.Transport, None)  # set before any use
        self._arrived = ssl.MemoryBIO()
        self._leaving = ssl.MemoryBIO()
        self._session: ssl.SSLObject | None = None
        self._records: Session = cast(Session, None)  # set with the session
        self._idle_records = IdleRecords()
        self._rest = b""  # bytes that arrived and OpenSSL does not have
        self._charged_bytes = 0  # to the receive budget: for what waits here, and in OpenSSL
        self._sealing_bytes = 0  # that a thread encrypts
        self._is_busy = False
        self._is_broken = False  # OpenSSL has failed in the session: it encrypts nothing more
        self.is_shaken = False
        self._is_paused = False
        self._is_closing = False
        self._is_lost = False
        self._end_waits = False
        self._has_ended = False  # the peer's side

    def __repr__(self) -> str:
        state = "serving" if self.is_shaken else "handshaking"
        return f"<TlsTransport {state}{' in a thread' if self._is_busy else ''} rest={len(self._rest)}>"

    # --- The socket's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._upper.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = self._is_closing = True
        self._keep(b"")
        if not self.is_shaken and self._session is not None:
            self._workers.handshaking -= 1
        upper = self._upper
        self._upper = cast(Upper, None)  # each refers to the other: the collector looks at old objects rarely
        upper.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        rest, wire = self._rest, self._workers.wire_view
        if not rest:
            return wire
        wire[: len(rest)] = rest
        return wire[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        wire = self._workers.wire_view[: len(self._rest) + nbytes]
        if self._session is None and not self._began(wire[0]):
            return
        self._take(wire)

    def eof_received(self) -> bool:
        """A TLS client that ends its side has said so before, or was cut off: it gets what is due, as in the clear."""
        if self._is_busy or (self._is_held and self._has_more):
            self._end_waits = True  # it comes behind bytes that wait
            return True
        return self._ended()

    def pause_writing(self) -> None:
        self._upper.pause_writing()

    def resume_writing(self) -> None:
        self._upper.resume_writing()

    def _began(self, first: int) -> bool:
        if first != HANDSHAKE:
            self._fail(f"it speaks without TLS, and listener {self._tls.listener} asks for TLS")
            return False
        self._session, self._records = wrapped(self._tls.context, self._arrived, self._leaving)
        self._workers.handshaking += 1
        return True

    def _ended(self) -> bool:
        if self._has_ended or self._is_lost:
            return not self._is_closing
        self._has_ended = True
        if not self.is_shaken:
            if self._session is not None:
                self._fail("it hung up during the TLS handshake")
            return False
        return self._upper.eof_received()

    # --- Bytes in -------------------------------------------------------------------------------

    @property
    def _is_held(self) -> bool:
        return self._is_busy or self._is_paused or self._is_closing

    @property
    def _has_more(self) -> bool:
        """Did anything come that the connection does not have?"""
        return bool(self._rest) or (self.is_shaken and self._records.has_input())

    def _take(self, wire: memoryview) -> None:
        """Decrypt, as far as the connection reads; keep the rest."""
        at = 0
        while not (self.is_shaken or self._is_held) and (size := whole_records(wire, at, FEED_BYTES)):
            records = wire[at : at + size]
            self._arrived.write(records)
            at += size
            self._shake(records)
        if self.is_shaken:
            at = self._read(wire, at)
        self._keep(b"" if self._is_closing else bytes(wire[at:]))
        if self._rest and self._is_held:
            self._raw.pause_reading()

    def _keep(self, rest: bytes) -> None:
        budget = self._host.receive_budget
        if self._charged_bytes:
            budget.finished(self, self._charged_bytes)
        self._rest = rest
        openssl_has = self._records.holds_bytes if self.is_shaken else 0
        self._charged_bytes = len(rest) + (0 if self._is_closing else openssl_has)
        if self._charged_bytes:
            budget.charge(self._charged_bytes)

    def _go_on(self) -> None:
        """Nothing holds up bytes that wait any more."""
        try:
            self._read_on()
        except Exception:
            # Unlike one in `buffer_updated`, it would end nothing: the connection would not be read any more.
            logger.exception("a defect: a request over TLS does not begin, and its connection ends. Please report it")
            self.abort()

    def _read_on(self) -> None:
        if self._is_held:
            return
        if self.is_shaken or self._rest:
            self._take(memoryview(self._rest))
        if self._is_held:
            return
        if self._end_waits:
            self._end_waits = False
            if not self._ended():
                self.close()
        else:
            self._raw.resume_reading()

    def _read(self, wire: memoryview, at: int) -> int:
        """Hand on everything that can be decrypted, while the connection reads; returns where the rest begins."""
        upper, records = self._upper, self._records
        more = True
        while more and not self._is_held and (at < len(wire) or records.has_input()) and upper.has_turn():
            began_s = _now()
            try:  # nobody keeps the view of the connection's buffer, as a buffer in use cannot grow
                size, at, more = records.unseal(upper.get_buffer(-1), wire, at)
            except ssl.SSLError as error:
                self._break(f"its TLS records cannot be read: {reason(error)}")
                return at
            upper.spent(_now() - began_s)
            if records.idle_records and not self._idle_records.allow(records.idle_records, began_s):
                self._fail(TOO_MANY)
                return at
            if size:
                upper.buffer_updated(size)
        if self._is_busy or self._is_closing:
            return at  # an answer is being encrypted: `_go_on` comes back here
        if self._leaving.pending:  # the answer to a change of keys, or to a handshake that is refused
            self._raw.write(self._leaving.read())
            if self._raw.get_write_buffer_size():
                upper.pause_writing()  # each of these counts: whoever does not take them is not read for long
        if records.said_goodbye and not self._is_paused and not self._ended():  # behind requests that wait above
            self.close()
        return at

    # --- Handshake ------------------------------------------------------------------------------

    def _shake(self, records: memoryview) -> None:
        """Take the step of the handshake for which these came. A client's last message is encrypted: unless it brings a
        certificate, its check costs less than the way to a thread and back."""
        if are_sealed(records) and not self._tls.asks_for_certificates:
            self._stepped(self._step())
        else:
            self._aside(self._workers.handshaker, self._step, self._stepped_aside)

    def _stepped_aside(self, outcome: tuple[bool, bytes, ssl.SSLError | None]) -> None:
        self._stepped(outcome)
        self._go_on()

    def _step(self) -> tuple[bool, bytes, ssl.SSLError | None]:
        """On the loop or in a thread. Returns whether it was the last one, and the bytes to send."""
        assert self._session is not None
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._leaving.read(), None
        except ssl.SSLError as error:
            return False, self._leaving.read(), error
        return True, self._leaving.read(), None

    def _stepped(self, outcome: tuple[bool, bytes, ssl.SSLError | None]) -> None:
        is_last, answer, error = outcome
        if self._is_closing:
            return
        if answer:
            self._raw.write(answer)
        if error is not None:
            self._fail(f"its TLS handshake failed: {reason(error)}")
        elif is_last:
            self._shaken()

    def _shaken(self) -> None:
        session, workers = cast(ssl.SSLObject, self._session), self._workers
        self.is_shaken = True
        workers.handshaking -= 1
        workers.handshakes += 1
        workers.resumed += bool(session.session_reused)
        if self._tls.asks_for_certificates and self._names_users:
            try:
                self._upper.principal = self._tls.principal_of(session.getpeercert(binary_form=True))
            except NoPrincipal as nobody:
                workers.failures += 1
                self._upper.refuse(f"a client without a user: {nobody}")

    def _fail(self, reason: str) -> None:
        """End for a fault of the peer's; OpenSSL's alert, if there is one, still leaves."""
        self._count_failure()
        if self._leaving.pending and not self._is_busy:
            self._raw.write(self._leaving.read())
        self._upper.refuse(reason)

    def _break(self, reason: str) -> None:
        """The session has failed: end without the answers that are due, as OpenSSL would fail again at each of them."""
        self._is_broken = True
        self._fail(reason)

    def _count_failure(self) -> None:
        if not self.is_shaken:
            self._workers.failures += 1

    # --- Work in a thread -----------------------------------------------------------------------

    def _aside(
        self, pool: ThreadPoolExecutor, work: Callable[..., Any], done: Callable[[Any], None], *args: Any
    ) -> None:
        """Run `work` in a thread, then `done` with its result on the loop, unless the connection is gone."""
        self._is_busy = True

        def ended(future: asyncio.Future[Any]) -> None:
            self._is_busy = False
            if not self._is_lost and not future.cancelled():
                done(future.result())

        self._host.loop.run_in_executor(pool, work, *args).add_done_callback(ended)

    # --- The connection's side ------------------------------------------------------------------

    @property
    def is_sealing(self) -> bool:
        return self._sealing_bytes > 0

    def takes_answers(self) -> bool:
        """May the next bytes be encrypted? Only when the socket took those before."""
        is_held = self._is_busy or self._is_closing or self._is_broken
        return self.is_shaken and not is_held and not self._raw.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.seal((data,))

    def seal(self, parts: Sequence[Part]) -> None:
        """Encrypt and send; only while `takes_answers`. A failure ends the connection and is not raised: whoever sends
        this answer has those of others to send."""
        began_s = _now()
        self._send(self._tried(parts))
        if not self._is_lost:
            self._upper.sealed(_now() - began_s)

    def _tried(self, parts: Sequence[Part]) -> list[bytes] | ssl.SSLError:
        """The records that hold these bytes, or why there are none: a client that has sent the beginning of a message
        only, such as of a change of keys, can be answered by nobody. On the loop or in a thread."""
        try:
            return self._records.seal(parts)
        except ssl.SSLError as error:
            return error

    def _send(self, records: list[bytes] | ssl.SSLError) -> None:
        if isinstance(records, ssl.SSLError):
            self._break(f"its answers cannot be encrypted: {reason(records)}")
        else:
            self._raw.writelines(records)

    def seal_aside(self, data: bytes) -> None:
        """The same in a thread."""
        self._sealing_bytes = len(data)
        self._upper.pause_writing()
        self._aside(self._workers.sealer, self._tried, self._sealed, (data,))

    def _sealed(self, records: list[bytes] | ssl.SSLError) -> None:
        self._sealing_bytes = 0
        if self._is_closing:
            return
        self._send(records)
        if self.is_closing():
            return
        if not self._raw.get_write_buffer_size():
            self._upper.resume_writing()
        if not self._is_lost:
            self._go_on()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size() + self._sealing_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high=high, low=low)

    def pause_reading(self) -> None:
        self._is_paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on, bytes that wait first; not from inside of the caller, who may be handing bytes on."""
        if self._is_paused:
            self._is_paused = False
            self._host.loop.call_soon(self._go_on)

    def is_closing(self) -> bool:
        return self._is_closing or self._raw.is_closing()

    def close(self) -> None:
        """Say goodbye, then close the socket when it has taken everything."""
        if self._is_closing:
            return
        self._is_closing = True
        if self.is_shaken and not self._is_busy:
            with contextlib.suppress(ssl.SSLError):  # the peer's goodbye is not waited for
                cast(ssl.SSLObject, self._session).unwrap()
            if self._leaving.pending:
                self._raw.write(self._leaving.read())
        self._raw.close()

    def abort(self) -> None:
        self._is_closing = True
        self._raw.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)


class SealedOutgoing(Outgoing):
    """Answers of a TLS connection: encrypted piece by piece, and sent. Nothing is written past the transport, and
    nobody but the loop looks at the log's memory: a thread gets a copy."""

    __slots__ = ("_tls",)

    def __init__(self, transport: TlsTransport) -> None:
        super().__init__(transport)
        self._tls = transport

    @property
    def has_views(self) -> bool:
        return bool(self._rest) or self._tls.is_sealing

    def send(self, parts: Sequence[Part], size: int) -> None:
        self._rest.extend(parts)
        self._rest_bytes += size
        self.go_on()

    def go_on(self) -> None:
        while self._rest and self._tls.takes_answers():
            if self._rest_bytes >= ASIDE_BYTES_MIN:
                self._tls.seal_aside(b"".join(self._next(SEAL_ASIDE_BYTES)))
            else:
                self._tls.seal(self._next(SEAL_BYTES))


def reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    return str(error.reason or error)[:200].replace("_", " ").lower()
