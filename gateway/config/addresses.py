"""Addresses to listen on, in the operator's notation: `[NAME://]HOST:PORT[=ADVERTISED_HOST[:PORT]]`.

Keeps: a Kafka listener always has an address that a client can dial; a wildcard host needs an
explicit one, here or in `advertised.listeners`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final, Self

PORT_MAX: Final = 65_535
_HOST_PORT: Final = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<host>[^\[\]:=,/\s]+)):(?P<port>\d{1,5})")
_HOST: Final = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<host>[^\[\]:=,/\s]+))(?::(?P<port>\d{1,5}))?")
_NAMED: Final = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,100})://(?P<rest>.*)")
UNNAMED: Final = "PLAINTEXT"
"""The name of a listener that is given by its address alone."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One address to bind, with the address that it advertises to its clients."""

    host: str
    port: int
    advertised_host: str | None = None
    advertised_port: int | None = None
    name: str = UNNAMED

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[NAME://]HOST:PORT[=ADVERTISED_HOST[:PORT]]`; IPv6 literals stand in brackets. After a name, the host
        may be missing, as in Kafka: every interface."""
        named = _NAMED.fullmatch(text.strip())
        if named is None:
            return cls._parse(text, text)
        rest = f"*{named['rest']}" if named["rest"].startswith(":") else named["rest"]
        return replace(cls._parse(rest, text), name=named["name"].upper())

    @classmethod
    def _parse(cls, address: str, text: str) -> Self:
        bound, _, advertised = address.partition("=")
        match = _HOST_PORT.fullmatch(bound.strip())
        if match is None:
            raise ValueError(f"{text!r} is not HOST:PORT (an IPv6 address stands in brackets)")
        host, port = _host(match, text), _port(match, text)
        if not advertised:
            if "=" in text:
                raise ValueError(f"{text!r} has nothing after '='")
            return cls(host, port)
        target = _HOST.fullmatch(advertised.strip())
        if target is None:
            raise ValueError(f"{advertised!r} is not ADVERTISED_HOST[:PORT]")
        advertised_port = _port(target, text) if target["port"] else None
        if advertised_port == 0:
            raise ValueError(f"{text!r} advertises port 0, which no client can dial")
        if _is_wildcard(_host(target, text)):
            raise ValueError(f"{text!r} advertises a wildcard, which no client can dial")
        return cls(host, port, _host(target, text), advertised_port)

    def advertising(self, told: ListenAddress) -> ListenAddress:
        """The same listener, whose clients are told that address."""
        return replace(self, advertised_host=told.host, advertised_port=told.port)

    def of_worker(self, worker: int, http: ListenAddress | None) -> ListenAddress:
        """The same listener of a worker: its ports are counted from those that are configured, 0 is the first worker's.

        A port that the HTTP server has at the same address is left out, and so is the advertised one of its place.
        """
        step = worker
        if http is not None and self.port < http.port <= self.port + worker and overlap(self.host, http.host):
            step += 1

        def counted(port: int | None) -> int | None:
            return port + step if port else port

        return replace(self, port=counted(self.port) or 0, advertised_port=counted(self.advertised_port))

    @property
    def wildcard(self) -> bool:
        """The address binds every interface, so it names none that a client could dial."""
        return _is_wildcard(self.host)

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        bound = host_port(self.host, self.port)
        if self.name != UNNAMED:
            bound = f"{self.name}://{bound}"
        if self.advertised_host is None:
            return bound
        if self.advertised_port is None:
            return f"{bound}={bracketed(self.advertised_host)}"
        return f"{bound}={host_port(self.advertised_host, self.advertised_port)}"


def parse_kafka_listener(text: str) -> ListenAddress:
    """A listener for Kafka's protocol: clients connect back to it, so a client must be able to dial it."""
    address = ListenAddress.parse(text)
    if "://" not in text:  # a name may have an address in advertised.listeners
        check_dialable(address, text)
    return address


def check_dialable(address: ListenAddress, text: str) -> None:
    """Raises ValueError."""
    if address.wildcard and address.advertised_host is None:
        raise ValueError(
            f"{text!r} listens on every interface, and a client must be told one address to come "
            f"back to: say which, as {address}=HOST or {address}=HOST:PORT"
        )


def bracketed(host: str) -> str:
    """The host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int) -> str:
    """`HOST:PORT`, or `[HOST]:PORT` for an IPv6 address."""
    return f"{bracketed(host)}:{port}"


def overlap(one: str, other: str) -> bool:
    """Do two hosts share an address, as far as their text shows?"""
    both = _is_wildcard(one) or _is_wildcard(other)
    return bool(_families(one) & _families(other)) and bool(places(one) & places(other) or both)


def places(host: str) -> set[str]:
    """The addresses that a host's text names."""
    return {"127.0.0.1", "::1"} if host.lower() == "localhost" else {host.lower()}


def _families(host: str) -> set[int]:
    if host in ("0.0.0.0", "0"):
        return {4}
    if ":" in host:
        return {4, 6} if _is_wildcard(host) else {6}
    return {4} if host.replace(".", "").isdigit() else {4, 6}


def _host(match: re.Match[str], text: str) -> str:
    literal = match["literal"]
    if literal is None:
        return match["host"]
    try:
        address = ipaddress.IPv6Address(literal)
    except ValueError as exc:
        raise ValueError(f"{text!r}: {literal!r} is no IPv6 address") from exc
    return str(address.ipv4_mapped or address)


def _port(match: re.Match[str], text: str) -> int:
    port = int(match["port"])
    if port > PORT_MAX:
        raise ValueError(f"{text!r}: ports end at {PORT_MAX}")
    return port


def _is_wildcard(host: str) -> bool:
    return host in ("*", "0.0.0.0", "::", "0")
