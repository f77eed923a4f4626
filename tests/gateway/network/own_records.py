"""Clients that make records of TLS of their own after a handshake: such as no library sends, or not so many of them.

The handshake is OpenSSL's, which writes its secrets into a file; from these come the keys of the client's records.
"""

from __future__ import annotations

import hmac
import socket
import ssl
import struct
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.gateway.security.certificates import Files

CHANGE_OF_CIPHERS, ALERT, HANDSHAKE, DATA = 0x14, 0x15, 0x16, 0x17
"""Types of content."""
SUITES: Final = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
"""Of TLS 1.2. In TLS 1.3 OpenSSL chooses one with the same cipher first."""
HASH, HASH_BYTES = "sha384", 48
FIRST_SECRET: Final = "CLIENT_TRAFFIC_SECRET_0"
KEY_BYTES, IV_BYTES, SALT_BYTES = 32, 12, 4


class Sealing(Protocol):
    def record(self, kind: int, content: bytes) -> bytes:
        """The client's next record."""
        ...


class Sealing12:
    """Records of TLS 1.2 with AES-GCM (RFC 5288)."""

    def __init__(self, files: Files, plain: socket.socket, key_log: Path) -> None:
        seen = _shaken(files, plain, key_log, ssl.TLSVersion.TLSv1_2)
        server_random = seen[11:43]  # of the ServerHello, behind the heads of its record and message, and a version
        client_random, master = secret_of(key_log, "CLIENT_RANDOM")
        keys = _stretched(master, b"key expansion" + server_random + client_random, 2 * (KEY_BYTES + SALT_BYTES))
        self._cipher, self._salt = AESGCM(keys[:KEY_BYTES]), keys[2 * KEY_BYTES :][:SALT_BYTES]
        self._number = 1  # 0 was the end of the handshake

    def record(self, kind: int, content: bytes) -> bytes:
        number = struct.pack(">Q", self._number)
        self._number += 1
        about = number + struct.pack(">BHH", kind, 0x0303, len(content))
        sealed = number + self._cipher.encrypt(self._salt + number, content, about)
        return struct.pack(">BHH", kind, 0x0303, len(sealed)) + sealed


class Sealing13:
    """Records of TLS 1.3 (RFC 8446, section 5.2), and changes of its keys."""

    def __init__(self, files: Files, plain: socket.socket, key_log: Path) -> None:
        _shaken(files, plain, key_log, ssl.TLSVersion.TLSv1_3)
        self._begin(secret_of(key_log, FIRST_SECRET)[1])

    @classmethod
    def behind(cls, key_log: Path) -> Sealing13:
        """The records of a session whose handshake is done."""
        client = cls.__new__(cls)
        client._begin(secret_of(key_log, FIRST_SECRET)[1])
        return client

    def _begin(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._cipher = AESGCM(_expanded(secret, "key", KEY_BYTES))
        self._iv = int.from_bytes(_expanded(secret, "iv", IV_BYTES))

    def record(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        inner = content + bytes([kind]) + bytes(padding)
        head = struct.pack(">BHH", DATA, 0x0303, len(inner) + 16)
        nonce = (self._iv ^ self._number).to_bytes(IV_BYTES)
        self._number += 1
        return head + self._cipher.encrypt(nonce, inner, head)

    def key_update(self, *, asks: bool = False, padding: int = 0) -> bytes:
        """A record that changes the client's keys (section 4.6.3); it may ask for a change of the server's."""
        record = self.record(HANDSHAKE, bytes([24, 0, 0, 1, asks]), padding)
        self._begin(_expanded(self._secret, "traffic upd", HASH_BYTES))
        return record


def _shaken(files: Files, plain: socket.socket, key_log: Path, version: ssl.TLSVersion) -> bytes:
    """Make a handshake; returns the bytes that the server sent."""
    context = files.context()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(SUITES)
    context.keylog_filename = str(key_log)
    incoming, outgoing, seen = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            incoming.write(came := plain.recv(65_536))
            seen += came
    plain.sendall(outgoing.read())
    return seen


def secret_of(key_log: Path, name: str) -> tuple[bytes, bytes]:
    """The random number and the secret of a line in OpenSSL's file of secrets."""
    line = next(line for line in key_log.read_text().splitlines() if line.startswith(f"{name} "))
    random, secret = line.split()[1:]
    return bytes.fromhex(random), bytes.fromhex(secret)


def _stretched(secret: bytes, seed: bytes, size: int) -> bytes:
    """TLS 1.2's pseudo-random function (RFC 5246, section 5)."""
    step, out = seed, b""
    while len(out) < size:
        step = hmac.digest(secret, step, HASH)
        out += hmac.digest(secret, step + seed, HASH)
    return out[:size]


def _expanded(secret: bytes, label: str, size: int) -> bytes:
    """TLS 1.3's HKDF-Expand-Label (RFC 8446, section 7.1), of one step and without a context."""
    name = b"tls13 " + label.encode()
    return hmac.digest(secret, struct.pack(">HB", size, len(name)) + name + b"\0\1", HASH)[:size]
