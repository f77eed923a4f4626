"""A gateway's REST API, as tools ask it: where it is, who asks, and what it says.

Who asks is proved as `http.auth` has it: by a token, a user's password, or a certificate. The settings are those of the
tools over Kafka's protocol, and the address, flags over a profile.

Keeps: a password leaves over TLS, or to this machine, and else not at all; no message has a secret.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import re
import ssl
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from gateway.cli.client.connection import Connection
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

URL: Final = "http://localhost:9094"
TIMEOUT_S: Final = 60.0
_URL_CREDENTIALS: Final = re.compile(r"(^|//)[^/?#]*@")


class Rest:
    """One gateway's API for one user."""

    def __init__(self, url: str | None, flags: Connection, profile: str | None, token: str | None) -> None:
        """`token` is stronger than a user, a flag stronger than the profile; without either it is asked at URL."""
        self._given = url
        self._flags = flags
        self._profile = profile
        self._token = (token or "").strip()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """What it answers to a path below /api/v1. Raises Refused, with its reason if it has one."""
        connection = self._connection()
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if (proof := self.authorization()) is not None:
            headers["Authorization"] = proof
        target = f"{self._parts.path.rstrip('/')}/api/v1{path}"
        try:
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        except ssl.SSLCertVerificationError as error:
            why = f"the certificate of {self._named} is refused ({error.verify_message}): --ca says who vouches for it"
            raise Refused(why) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Refused(f"no gateway answers at {self._named} ({error}); say where it is with --url") from error
        finally:
            connection.close()
        return self._told(answer, content)

    def _told(self, answer: http.client.HTTPResponse, content: bytes) -> Any:
        try:
            told = json.loads(content)
        except ValueError as error:
            raise Refused(f"{self._named} answers {answer.status}, and is no Penstock gateway") from error
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise Refused(
                "the gateway asks who you are: --user with --password-file, --token-file or PENSTOCK_HTTP_TOKEN, or "
                "--cert, by what its http.auth and http.token say"
            )
        if answer.status != HTTPStatus.OK:
            raise Refused(str(told.get("detail", answer.reason)) if isinstance(told, dict) else answer.reason)
        return told

    # --- Where ----------------------------------------------------------------------------------

    @property
    def _named(self) -> str:
        return _named(self.place)

    @cached_property
    def place(self) -> str:
        """The address that is asked."""
        return self._given or self._settings.url or URL

    @cached_property
    def _parts(self) -> SplitResult:
        return parts_of(self.place)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._context())

    def _context(self) -> ssl.SSLContext:
        settings = self._settings
        file = settings.ca
        try:
            context = ssl.create_default_context(cafile=file)
            if (file := settings.cert) is not None:
                context.load_cert_chain(file, settings.key)
        except OSError as error:  # an SSLError is one, too
            why = error.strerror or "no certificate or key in PEM"
            raise Refused(f"{file}: cannot be used: {why}", ExitCode.CONFIGURATION) from None
        return context

    # --- Who ------------------------------------------------------------------------------------

    @cached_property
    def _settings(self) -> Connection:
        from gateway.cli.client.profiles import Profiles

        return self._flags.over(Profiles.read().of(self._profile))

    def authorization(self) -> str | None:
        """The header that says who asks, if anything does. Raises Refused."""
        if self._token:
            if not (self._token.isascii() and self._token.isprintable()):  # not quoted: it is a secret
                why = "--token, or PENSTOCK_HTTP_TOKEN: it holds characters that no header of a request can carry"
                raise Refused(why, ExitCode.CONFIGURATION)
            return f"Bearer {self._token}"
        settings = self._settings
        if settings.user is None:
            return None
        if not self._keeps_secrets():
            if self._flags.user is None:
                return None  # the profile's user, whom this gateway may not ask for
            why = f"--url {self._named}: whoever is on the way would read the password: give https://"
            raise Refused(why, ExitCode.CONFIGURATION)
        if settings.password_file is None:
            raise Refused("--user needs --password-file", ExitCode.CONFIGURATION)
        if ":" in settings.user:
            raise Refused("--user: HTTP has no user with a colon in its name", ExitCode.CONFIGURATION)
        return f"Basic {base64.b64encode(f'{settings.user}:{settings.password()}'.encode()).decode()}"

    def _keeps_secrets(self) -> bool:
        host = self._parts.hostname or ""
        if self._parts.scheme == "https" or host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def parts_of(url: str) -> SplitResult:
    """The parts of an address. Raises Refused if it is none."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("no address")
        _ = parts.port  # only who reads it hears that it is none
    except ValueError as error:
        raise Refused(f"--url {_named(url)}: allowed: http(s)://HOST[:PORT]", ExitCode.CONFIGURATION) from error
    return parts


def _named(url: str) -> str:
    """The address for a message, without the credentials before an @."""
    return _URL_CREDENTIALS.sub(r"\1[hidden]@", url)
