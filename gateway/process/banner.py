"""What a gateway prints once clients are served: where it is, where its data lies, and one line to try it.

Keeps: the line works as it stands, with the command that came with the gateway, at an address that clients are told.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway import __version__
from gateway.config.addresses import host_port
from gateway.config.model import Config
from gateway.config.security import SecurityProtocol
from gateway.long_term.opening import place_of
from gateway.network.binding import Binding

DEFAULT: Final = "localhost:9092"
"""Where the tools look without a flag."""
TOPIC: Final = "greetings"


def show(config: Config, kafka: Sequence[Binding], http: Binding | None, data: Path, workers: int = 1) -> None:
    """Print it, if anybody listens. `workers`: how many processes serve."""
    shared = f", with {workers} workers" if workers > 1 else ""
    others = ": any of them leads a client to the others" if workers > 1 else ""
    scheme = "http" if config.http_tls_keystore_location is None else "https"
    lines = [
        f"Penstock {__version__} is ready{shared}.",
        f"  Kafka clients  {', '.join(map(str, kafka))}{others}",
        f"  Console        {f'{scheme}://{http}/' if http else 'off'}",
        f"  Data           {data}",
        f"  Long term      {place_of(config)}",
        f"  Try it         {to_try(config, kafka, command())}",
    ]
    with contextlib.suppress(OSError):
        print("\n".join(lines), flush=True)


def to_try(config: Config, kafka: Sequence[Binding], penstock: str) -> str:
    """A record there and back, by the listener that asks least of its clients."""
    listener = min(kafka, key=lambda one: len(_flags(config, one)))
    flags = _flags(config, listener)
    return f"echo hello | {penstock} produce {TOPIC}{flags} && {penstock} consume {TOPIC}{flags}"


def _flags(config: Config, listener: Binding) -> str:
    told = host_port(listener.advertised_host, listener.advertised_port)
    protocol = config.protocol_of(listener.name) or SecurityProtocol.PLAINTEXT
    return (
        ("" if told == DEFAULT else f" --bootstrap {told}")
        + (" --ca CA.pem" if protocol.has_tls else "")
        + (" --user NAME --password-file FILE" if protocol.has_sasl else "")
    )


def command() -> str:
    """How this process was called, as a shell takes it."""
    called = sys.argv[0]
    return shlex.quote(called) if Path(called).name == "penstock" else "penstock"
