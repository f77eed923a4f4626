"""The client's side of SCRAM, written from RFC 5802 alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class ScramClient:
    """One login. `header`: the GS2 header; `bare`: replaces the first message behind it."""

    def __init__(self, mechanism: str, user: str, password: str, header: str = "n,,", extensions: str = "") -> None:
        self.hash = HASHES[mechanism]
        self.password = password.encode()
        self.header = header
        self.nonce = secrets.token_hex(12)
        name = user.replace("=", "=3D").replace(",", "=2C")
        self.bare = f"n={name},r={self.nonce}{extensions}"
        self.server_signature = b""

    def first(self) -> bytes:
        return (self.header + self.bare).encode()

    def final(self, challenge: bytes, nonce: str | None = None, header: str | None = None) -> bytes:
        """The proof; `nonce` and `header` instead of the right ones."""
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        assert fields["r"].startswith(self.nonce)
        assert len(fields["r"]) > len(self.nonce) + 20
        salted = hashlib.pbkdf2_hmac(self.hash, self.password, base64.b64decode(fields["s"]), int(fields["i"]))
        binding = base64.b64encode((header or self.header).encode()).decode()
        unproved = f"c={binding},r={nonce or fields['r']}"
        message = f"{self.bare},{challenge.decode()},{unproved}".encode()
        client_key = hmac.digest(salted, b"Client Key", self.hash)
        signature = hmac.digest(hashlib.new(self.hash, client_key).digest(), message, self.hash)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        self.server_signature = hmac.digest(hmac.digest(salted, b"Server Key", self.hash), message, self.hash)
        return f"{unproved},p={base64.b64encode(proof).decode()}".encode()

    def accepts(self, last: bytes) -> bool:
        """Has the server proved that it knows the user?"""
        return last == b"v=" + base64.b64encode(self.server_signature)
