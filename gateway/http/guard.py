"""Decides which requests may read and change something over HTTP.

Keeps: no page of another site reads here or makes a reader's browser change a stream. A foreign name in `Host` means
that a stranger's name was pointed at this address; a foreign `Origin` means another site's page. If other machines
reach the listener, or a token is configured, a writing request needs the token, unless users are asked for: then their
rights decide. Other machines that reach the listener may read by a name that no stranger can own: one without a dot, or
in a domain that cannot be registered.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gateway.http.problems import Problem

BEARER: Final = "bearer "
PRIVATE_DOMAINS: Final = (".local", ".internal", ".localhost", ".home.arpa", ".svc", ".test")
"""Domains in which no name can be registered: those of Compose, Kubernetes and machines' own names."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of one listener. `hosts` are its names, besides localhost and addresses."""

    loopback: bool
    hosts: Collection[str] = ()
    token: str | None = field(default=None, repr=False)
    has_users: bool = False
    """`http.auth` asks for users: their rights decide, and nothing else needs the token."""

    def check_write(self, headers: Headers) -> None:
        """Raises Problem."""
        self._check_host(headers)
        _check_origin(headers)
        self._check_token(headers)

    def check_read(self, headers: Headers) -> None:
        """Raises Problem."""
        host = _host_name(headers.get("host", ""))
        if not self._is_ours(host) and (self.loopback or not _is_private(host)):
            raise _unknown(host)

    def _check_host(self, headers: Headers) -> None:
        host = _host_name(headers.get("host", ""))
        if not host or not self._is_ours(host):
            raise _unknown(host)

    def _is_ours(self, host: str) -> bool:
        if host == "localhost" or host in self.hosts:
            return True
        try:  # an address, unlike a name, cannot be pointed elsewhere
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback

    def _check_token(self, headers: Headers) -> None:
        if self.has_users:
            return
        if not self.token:  # an empty token, which an unset variable gives, is no secret either
            if not self.loopback:
                raise Problem(
                    403,
                    "Writing is off",
                    "other machines reach this listener, so writing needs a token: set http.token and send it as "
                    "Authorization: Bearer TOKEN",
                )
            return
        shown = headers.get("authorization", "")
        given = shown[len(BEARER) :].strip() if shown.lower().startswith(BEARER) else ""
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise Problem(
                401,
                "Token needed",
                "send the configured http.token as Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )


def _unknown(host: str) -> Problem:
    return Problem(
        403,
        "Unknown host",
        f"this gateway is not called {host[:300]!r}; use its address, or add the name to http.hosts",
    )


def _is_private(host: str) -> bool:
    return bool(host) and ("." not in host or host.endswith(PRIVATE_DOMAINS))


def _check_origin(headers: Headers) -> None:
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    if origin is not None:
        if not _is_page_of(origin, headers.get("host", "")):
            raise Problem(403, "Foreign origin", f"a page of {origin[:300]!r} may not change anything here")
    elif site not in ("same-origin", "none"):
        raise Problem(403, "Foreign origin", "a page of another site may not change anything here")


def _is_page_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower().removesuffix(".")
    except ValueError:
        return ""
