"""Calls to etcd: to whichever member answers, again until one does, with TLS and a password where they are wanted.

Each call goes to the member that answered last; after a failure to the next one, with a pause after each round. An
attempt that takes `ATTEMPT_S` is given up, and a call that takes `within_s` raises CoordinatorAway.

**Invariants**

- Whatever this module sends may arrive twice, or late: a cut between request and answer leaves open what happened, and
  the call is repeated. So it sends nothing that may not: reads; leases by ids that the caller has drawn; transactions
  whose own effect makes one of their compares false for ever (`core.cluster.etcd.session` makes those).
- All answers are of one etcd cluster, the one that answered first.
- No error and no log line has the password or a token.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from core.cluster.etcd.http import Connection, Endpoint
from core.cluster.etcd.wire import (
    COMPACTED,
    DUPLICATE,
    MAY_PASS,
    NOT_FOUND,
    Compare,
    Decided,
    Delete,
    EtcdError,
    Found,
    Put,
    Range,
    Unanswered,
    Watched,
    cluster_of,
    number,
    range_body,
    read_decided,
    read_error,
    read_found,
    read_object,
    read_watched,
    txn_body,
    watch_body,
)
from core.errors import CoordinatorAway, CoordinatorRefuses

CALL_S: Final = 10.0
"""How long a call is tried. An election takes one or two seconds."""
ATTEMPT_S: Final = 2.0
PAUSE_S: Final = 0.05
PAUSE_S_MAX: Final = 1.0
CALLS_MAX: Final = 32
"""The most calls at a time; others wait for their turn."""
IDLE_MAX: Final = 8
"""The most connections that are kept for calls to come."""
TOKENS_MAX: Final = 3
"""The most tokens that a call asks for: one may expire under it, a fourth time it is something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdSettings:
    """How to reach etcd."""

    endpoints: Sequence[Endpoint]
    tls: bool = False
    ca_file: str | None = None  # vouches for etcd's certificates; None: the system's authorities
    cert_file: str | None = None  # of this client, with its key
    key_file: str | None = None
    key_password: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)


class EtcdClient:
    """See the module. All methods are for one event loop."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Reads the files of certificates. Raises CoordinatorRefuses if they are none."""
        self._settings = settings
        self._endpoints = tuple(settings.endpoints)
        self._at = 0  # the member to ask next
        self._tls = _tls_of(settings)
        self._idle: list[Connection] = []
        self._turns = asyncio.Semaphore(CALLS_MAX)
        self._token = ""
        self._asking_for_token = asyncio.Lock()
        self._cluster = ""

    def __repr__(self) -> str:
        return f"<EtcdClient {', '.join(map(str, self._endpoints))} at {self._at}>"

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    # Calls. All raise CoordinatorAway and CoordinatorRefuses.

    async def read(self, wanted: Range, within_s: float = CALL_S) -> Found:
        """What the keys are: linearizable, so every change that was answered before is in it.

        Raises EtcdError with the code COMPACTED if that revision is gone.
        """
        return read_found(await self._call("kv/range", range_body(wanted), within_s, COMPACTED))

    async def decide(
        self,
        compares: Sequence[Compare],
        changes: Sequence[Put | Delete],
        otherwise: Sequence[Range] = (),
        within_s: float = CALL_S,
    ) -> Decided:
        """A transaction that may arrive twice, see the module.

        Raises EtcdError with the code NOT_FOUND if a put names a lease that is gone; then it has changed nothing.
        """
        body = txn_body(compares, changes, otherwise)
        return read_decided(await self._call("kv/txn", body, within_s, NOT_FOUND))

    async def grant(self, lease: int, ttl_s: int, within_s: float = CALL_S) -> int:
        """Begin a lease with an id that nobody else has drawn; returns its time to live, which etcd may have raised."""
        try:
            answer = await self._call("lease/grant", {"ID": str(lease), "TTL": str(ttl_s)}, within_s, DUPLICATE)
        except EtcdError:  # the first attempt went through unseen
            return await self.renew(lease, within_s)
        return number(answer, "TTL")

    async def renew(self, lease: int, within_s: float = CALL_S, attempt_s: float = ATTEMPT_S) -> int:
        """Let a lease live for its time to live again, which is returned; 0 if there is no such lease."""
        answer = await self._call("lease/keepalive", {"ID": str(lease)}, within_s, attempt_s=attempt_s)
        result = answer.get("result")
        return number(result, "TTL") if isinstance(result, Mapping) else 0

    async def time_to_live(self, lease: int, within_s: float = CALL_S) -> tuple[int, int]:
        """The time for which a lease was granted, and what is left of it, seconds; -1 if there is no such lease."""
        answer = await self._call("lease/timetolive", {"ID": str(lease)}, within_s)
        return number(answer, "grantedTTL"), number(answer, "TTL")

    async def revoke(self, lease: int, within_s: float = CALL_S) -> None:
        """End a lease, with all keys under it."""
        with suppress(EtcdError):  # it has ended
            await self._call("lease/revoke", {"ID": str(lease)}, within_s, NOT_FOUND)

    async def watch(self, key: bytes, end: bytes, start: int) -> AsyncGenerator[Watched, None]:
        """Changes from revision `start` on, from one member, until the connection is cut: Unanswered, or EtcdError.

        The first message says that the watch is there. Close the iterator (`contextlib.aclosing`).
        """
        endpoint, token = self._endpoints[self._at], ""
        answered = False
        try:
            token = await self._token_now()
            connection = await Connection.open(endpoint, self._tls)
            path, body = "/v3/watch", json.dumps(watch_body(key, end, start)).encode()
            async with aclosing(connection.lines(path, body, token)) as lines:
                async for line in lines:
                    message = read_watched(line)
                    answered = True
                    yield message
        except EtcdError as error:
            if error.is_of_token:
                self._forget(token)
            answered = error.code not in MAY_PASS
            raise
        except Unanswered:
            answered = False
            raise
        finally:  # also if the caller has waited too long for the first message
            if not answered:
                self._turn_from(endpoint)

    # How a call is made

    async def _call(
        self,
        path: str,
        body: Mapping[str, Any],
        within_s: float,
        expected: int | None = None,
        attempt_s: float = ATTEMPT_S,
    ) -> Mapping[str, Any]:
        """Ask until somebody answers. Raises CoordinatorAway, CoordinatorRefuses, EtcdError with the expected code."""
        data = json.dumps(body, separators=(",", ":")).encode()
        why = "it has taken no call"
        try:
            async with asyncio.timeout(within_s), self._turns:
                tokens = failed = 0
                while True:
                    endpoint = self._endpoints[self._at]
                    token = ""
                    try:
                        async with asyncio.timeout(attempt_s):
                            token = await self._token_now()
                            return await self._attempt(endpoint, path, data, token)
                    except TimeoutError:
                        why = f"{endpoint} has not answered within {attempt_s:g} s"
                    except Unanswered as error:
                        why = str(error)
                    except EtcdError as error:
                        if error.is_of_token and self._settings.user and tokens < TOKENS_MAX:
                            tokens += 1
                            self._forget(token)
                            continue
                        if error.code not in MAY_PASS:
                            raise
                        why = f"{endpoint}: {error}"
                    self._turn_from(endpoint)
                    failed += 1
                    await self._pause(failed)
        except TimeoutError:
            raise CoordinatorAway(f"etcd has not answered within {within_s:g} s; at last {why}") from None
        except EtcdError as error:
            if error.code == expected:
                raise
            user = f" to user {self._settings.user!r}" if self._settings.user else ""
            raise CoordinatorRefuses(f"etcd refuses {path}{user}: {error}") from error

    async def _attempt(self, endpoint: Endpoint, path: str, data: bytes, token: str) -> Mapping[str, Any]:
        connection = await self._connected(endpoint)
        status, body = await connection.exchange(f"/v3/{path}", data, token)
        if connection.is_reusable and len(self._idle) < IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.close()
        if status != 200:
            raise read_error(status, body)
        answer = read_object(body)
        self._check_cluster(endpoint, answer)
        return answer

    async def _connected(self, endpoint: Endpoint) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.endpoint == endpoint and connection.is_reusable:
                return connection
            connection.close()
        return await Connection.open(endpoint, self._tls)

    def _turn_from(self, endpoint: Endpoint) -> None:
        """Ask another member from now on, unless somebody has turned from this one already."""
        if self._endpoints[self._at] == endpoint:
            self._at = (self._at + 1) % len(self._endpoints)

    async def _pause(self, failed: int) -> None:
        """After each round of all members."""
        rounds, rest = divmod(failed, len(self._endpoints))
        if not rest:
            await asyncio.sleep(min(PAUSE_S_MAX, PAUSE_S * 2 ** min(rounds, 10)) * random.uniform(0.5, 1))

    def _check_cluster(self, endpoint: Endpoint, answer: Mapping[str, Any]) -> None:
        cluster = cluster_of(answer)
        if cluster and self._cluster and cluster != self._cluster:
            raise CoordinatorRefuses(
                f"{endpoint} belongs to etcd cluster {cluster}, not to {self._cluster} that answered before: "
                f"name the members of one cluster"
            )
        self._cluster = self._cluster or cluster

    # Tokens

    async def _token_now(self) -> str:
        """The token for calls; empty without a user. Raises Unanswered, EtcdError."""
        if not self._settings.user or self._token:
            return self._token
        async with self._asking_for_token:
            if not self._token:
                who = {"name": self._settings.user, "password": self._settings.password}
                endpoint = self._endpoints[self._at]
                answer = await self._attempt(endpoint, "auth/authenticate", json.dumps(who).encode(), "")
                self._token = str(answer.get("token", ""))[:_TOKEN_CHARS_MAX]
            return self._token

    def _forget(self, token: str) -> None:
        if self._token == token:
            self._token = ""


_TOKEN_CHARS_MAX: Final = 8192


def _tls_of(settings: EtcdSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    named = [name for name in (settings.ca_file, settings.cert_file, settings.key_file) if name]
    for name in named:  # OpenSSL does not say which one it misses
        try:
            with Path(name).open("rb"):
                pass
        except OSError as error:
            why = f"{error.strerror}; put it there, or name it rightly"
            raise CoordinatorRefuses(f"{name}, for etcd, cannot be read: {why}") from error
    context = _vouched_for(settings.ca_file)
    try:
        if settings.cert_file is not None:
            # Without a password OpenSSL would ask a person for it, on the terminal.
            context.load_cert_chain(settings.cert_file, settings.key_file, lambda: settings.key_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is the one, a password that is too long the other
        why = f"{error}. Each must be PEM, the key must be that of the certificate, and its password right"
        raise CoordinatorRefuses(f"the certificates for etcd cannot be used ({', '.join(named)}): {why}") from error
    return context


def _vouched_for(ca_file: str | None) -> ssl.SSLContext:
    """A context that trusts the authorities in this file, or those of the system."""
    why = "it has no certificate (-----BEGIN CERTIFICATE-----)"
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if ca_file is None or context.cert_store_stats()["x509"]:  # else lists of revoked ones alone
            return context
    except OSError as error:  # an SSLError is one, too
        raise CoordinatorRefuses(f"{ca_file}, for etcd, cannot be used: {why} that can be read") from error
    raise CoordinatorRefuses(f"{ca_file}, for etcd, cannot be used: {why}")
