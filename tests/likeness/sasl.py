"""SASL over the wire, scene by scene, as a real Kafka answers it: the cases of its SaslAuthenticatorTest, and others.

`python -m tests.likeness.sasl` starts a Kafka with users of PLAIN and SCRAM and writes `sasl.json`. Each scene has a
connection of its own. Of an answer the error is told, whether there are words and a token with it, and whether the
connection goes on.
"""

from __future__ import annotations

import json
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from gateway.security.scram import salt_password
from tests.gateway.security.scram_client import ScramClient
from tests.likeness.asking import CLOSED, Server
from tests.likeness.rights import PATIENCE_S, PAUSE_S
from tests.likeness.tokens import KafkaWithTokens

ANSWERS: Final = Path(__file__).with_name("sasl.json")
PLAIN, SHA_256, SHA_512 = "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"
LIFETIME_MS: Final = 60_000
TOKEN_BYTES_MAX: Final = 524_288
OPEN_S: Final = 1.0
"""A connection on which nothing happens for so long goes on."""
AGAIN_S: Final = 1.1
"""Least time between two authentications of a connection."""
PLAIN_ALICE: Final = b"\0alice\0alice-secret"
GOES_ON: Final = "goes on"
SETTINGS: Final = {"connections.max.reauth.ms": str(LIFETIME_MS)}


class Talk:
    """One connection."""

    def __init__(self, address: str) -> None:
        self._server = Server(address, own={})
        self.token = b""
        """The last one that the server sent."""

    def close(self) -> None:
        self._server.close()

    def shake(self, mechanism: str, version: int = 1) -> Any:
        answer = self._server.said("SaslHandshake", version, {"mechanism": mechanism})
        if answer == CLOSED:
            return CLOSED
        return {"error_code": answer["error_code"], "mechanisms": sorted(answer["mechanisms"])}

    def prove(self, token: bytes, version: int = 2) -> Any:
        answer = self._server.said("SaslAuthenticate", version, {"auth_bytes": token})
        if answer == CLOSED:
            return CLOSED
        self.token = bytes.fromhex(answer["auth_bytes"] or "")
        return {
            "error_code": answer["error_code"],
            "has_words": bool(answer["error_message"]),
            "has_token": bool(self.token),
            "lifetime_ms": answer.get("session_lifetime", 0),
        }

    def prove_barely(self, token: bytes) -> Any:
        answer = self._server._exchange(struct.pack(">i", len(token)) + token)
        if answer is None:
            return CLOSED
        self.token = answer
        return {"has_token": bool(answer)}

    def raw(self, frame: bytes) -> Any:
        """Anything; the error code, if that is what the answer begins with."""
        answer = self._server._exchange(struct.pack(">i", len(frame)) + frame)
        return CLOSED if answer is None else {"error_code": struct.unpack_from(">h", answer, 4)[0]}

    def announce(self, size: int) -> Any:
        """The length of a request, and nothing of it."""
        answer = self._server._exchange(struct.pack(">i", size))
        return CLOSED if answer is None else {"answers": len(answer)}

    def ask(self, api: str, version: int, **body: Any) -> Any:
        answer = self._server.said(api, version, body)
        return CLOSED if answer == CLOSED else {"error_code": answer.get("error_code", 0)}

    def after(self) -> str:
        """Does it go on?"""
        connection = self._server._connection
        if connection is None:
            return CLOSED
        connection.settimeout(OPEN_S)
        try:
            return GOES_ON if connection.recv(1) else CLOSED
        except TimeoutError:
            return GOES_ON
        except ConnectionResetError:
            return CLOSED

    def scram(self, mechanism: str, user: str, password: str, version: int = 2, extensions: str = "") -> list[Any]:
        """A whole exchange."""
        client = ScramClient(mechanism, user, password, extensions=extensions)
        first = self.prove(client.first(), version)
        if first == CLOSED or first["error_code"]:
            return [first]
        return [first, self.prove(client.final(self.token), version)]


Scene = Callable[[Talk], list[Any]]
BAD_VERSION: Final = struct.pack(">hhih", 18, 99, 7, -1) + b"\0"
VERSIONS_3: Final = {"client_software_name": "likeness", "client_software_version": "1"}


def exchange(mechanism: str, user: str, password: str, version: int = 2, extensions: str = "") -> Scene:
    """By SCRAM, from the handshake on."""

    def scene(talk: Talk) -> list[Any]:
        return [talk.shake(mechanism), *talk.scram(mechanism, user, password, version, extensions), talk.after()]

    return scene


def plainly(token: bytes, version: int = 2) -> Scene:
    def scene(talk: Talk) -> list[Any]:
        return [talk.shake(PLAIN), talk.prove(token, version), talk.after()]

    return scene


def first_of_scram(message: bytes) -> Scene:
    """A first message that is not as it should be."""

    def scene(talk: Talk) -> list[Any]:
        return [talk.shake(SHA_256), talk.prove(message), talk.after()]

    return scene


def final_of_scram(change: Callable[[bytes], bytes]) -> Scene:
    """A last message that was changed."""

    def scene(talk: Talk) -> list[Any]:
        client = ScramClient(SHA_256, "alice", "scram-secret")
        told = [talk.shake(SHA_256), talk.prove(client.first())]
        return [*told, talk.prove(change(client.final(talk.token))), talk.after()]

    return scene


def unproved(*requests: Callable[[Talk], Any]) -> Scene:
    """Requests one after another, and whether the connection goes on."""

    def scene(talk: Talk) -> list[Any]:
        return [*(ask(talk) for ask in requests), talk.after()]

    return scene


def proved(*requests: Callable[[Talk], Any]) -> Scene:
    """The same of alice."""
    return unproved(lambda talk: talk.shake(PLAIN), lambda talk: talk.prove(PLAIN_ALICE), *requests)


def waited(talk: Talk) -> str:
    time.sleep(AGAIN_S)
    return "waits"


def shaking(mechanism: str, version: int = 1) -> Callable[[Talk], Any]:
    return lambda talk: talk.shake(mechanism, version)


def proving(token: bytes, version: int = 2) -> Callable[[Talk], Any]:
    return lambda talk: talk.prove(token, version)


def barely(token: bytes) -> Callable[[Talk], Any]:
    return lambda talk: talk.prove_barely(token)


def asking(api: str, version: int, **body: Any) -> Callable[[Talk], Any]:
    return lambda talk: talk.ask(api, version, **body)


METADATA: Final = asking("Metadata", 9, topics=[])
CLUSTER: Final = asking("DescribeCluster", 0)

SCENES: Final[dict[str, Scene]] = {
    **{
        f"alice by {mechanism}, v{version}": exchange(mechanism, "alice", "scram-secret", version)
        for mechanism in (SHA_256, SHA_512)
        for version in range(3)
    },
    **{f"alice by PLAIN, v{version}": plainly(PLAIN_ALICE, version) for version in range(3)},
    "a wrong password by PLAIN": plainly(b"\0alice\0wrong"),
    "an unknown user by PLAIN": plainly(b"\0nobody\0alice-secret"),
    "no user by PLAIN": plainly(b"\0\0alice-secret"),
    "no password by PLAIN": plainly(b"\0alice\0"),
    "a password of another case": plainly(b"\0alice\0Alice-secret"),
    "to be oneself by PLAIN": plainly(b"alice\0alice\0alice-secret"),
    "to be another by PLAIN": plainly(b"admin\0alice\0alice-secret"),
    "a message of PLAIN with two parts": plainly(b"\0alice"),
    "a message of PLAIN with four parts": plainly(b"\0alice\0alice-secret\0more"),
    "a message of PLAIN that is empty": plainly(b""),
    "a message of PLAIN that is no text": plainly(b"\0\xff\xfe\0\xff"),
    "a wrong password by SCRAM": exchange(SHA_256, "alice", "wrong"),
    "an unknown user by SCRAM": exchange(SHA_256, "nobody", "scram-secret"),
    "a user of another mechanism": exchange(SHA_512, "bob", "scram-secret"),
    "no token by that name": exchange(SHA_256, "alice", "scram-secret", extensions=",tokenauth=true"),
    "no token, in another case": exchange(SHA_256, "alice", "scram-secret", extensions=",tokenauth=TRUE"),
    "an extension that says no": exchange(SHA_256, "alice", "scram-secret", extensions=",tokenauth=false"),
    "an extension that nobody knows": exchange(SHA_256, "alice", "scram-secret", extensions=",color=red"),
    "channel binding": first_of_scram(b"p=tls-unique,,n=alice,r=abc"),
    "channel binding that could be": first_of_scram(b"y,,n=alice,r=abc"),
    "to be another by SCRAM": first_of_scram(b"n,a=admin,n=alice,r=abc"),
    "to be oneself by SCRAM": first_of_scram(b"n,a=alice,n=alice,r=abc"),
    "no nonce": first_of_scram(b"n,,n=alice"),
    "an empty nonce": first_of_scram(b"n,,n=alice,r="),
    "no user by SCRAM": first_of_scram(b"n,,n=,r=abc"),
    "an extension that must be understood": first_of_scram(b"n,,m=x,n=alice,r=abc"),
    "a message of SCRAM that is empty": first_of_scram(b""),
    "a message of SCRAM that is none": first_of_scram(b"\0alice\0scram-secret"),
    "another nonce at the end": final_of_scram(lambda final: final.replace(b"r=", b"r=x", 1)),
    "a nonce that is cut": final_of_scram(lambda final: final.split(b",r=")[0] + b",r=abc," + final.split(b",")[-1]),
    "another header at the end": final_of_scram(lambda final: final.replace(b"c=biws", b"c=eSws")),
    "no proof": final_of_scram(lambda final: final.rsplit(b",p=", 1)[0]),
    "a proof that is short": final_of_scram(lambda final: final.rsplit(b",p=", 1)[0] + b",p=AAAA"),
    "a proof that is no base64": final_of_scram(lambda final: final.rsplit(b",p=", 1)[0] + b",p=!!!!"),
    "a mechanism that is not there": unproved(shaking("GSSAPI")),
    "a mechanism that nobody knows": unproved(shaking("X" * 300)),
    "a mechanism in another case": unproved(shaking("plain")),
    "no mechanism": unproved(shaking("")),
    "versions are told before": unproved(asking("ApiVersions", 0), asking("ApiVersions", 3, **VERSIONS_3)),
    "versions are told twice, then alice comes": unproved(
        asking("ApiVersions", 3, **VERSIONS_3),
        asking("ApiVersions", 3, **VERSIONS_3),
        shaking(PLAIN),
        proving(PLAIN_ALICE),
        CLUSTER,
    ),
    "versions of a software without a name": unproved(
        asking("ApiVersions", 3, client_software_name="", client_software_version="1")
    ),
    "versions in a version that nobody has": unproved(
        lambda talk: talk.raw(BAD_VERSION), shaking(PLAIN), proving(PLAIN_ALICE)
    ),
    "versions after the handshake": unproved(shaking(PLAIN), asking("ApiVersions", 0)),
    "a request before the handshake": unproved(METADATA),
    "a request after the handshake": unproved(shaking(PLAIN), METADATA),
    "a token before the handshake": unproved(proving(PLAIN_ALICE)),
    "two handshakes": unproved(shaking(PLAIN), shaking(PLAIN)),
    "a handshake of a version that nobody has": unproved(
        lambda talk: talk.raw(struct.pack(">hhih", 17, 9, 7, -1) + b"\0\5PLAIN")
    ),
    "an API that nobody has": unproved(lambda talk: talk.raw(struct.pack(">hhih", 999, 0, 7, -1))),
    "no request at all": unproved(lambda talk: talk.raw(b"\xff" * 40)),
    "an empty request": unproved(lambda talk: talk.announce(0)),
    "a negative length": unproved(lambda talk: talk.announce(-1)),
    "a length over the bound": unproved(lambda talk: talk.announce(TOKEN_BYTES_MAX + 1)),
    "a token over the bound": unproved(shaking(PLAIN), lambda talk: talk.announce(TOKEN_BYTES_MAX + 1)),
    "bare tokens": unproved(shaking(PLAIN, 0), barely(PLAIN_ALICE), CLUSTER),
    "a bare token that is wrong": unproved(shaking(PLAIN, 0), barely(b"\0alice\0wrong")),
    "a bare token that is a request": unproved(shaking(PLAIN, 0), METADATA),
    "a token too late": proved(proving(b"more"), CLUSTER),
    "again at once": proved(shaking(PLAIN), proving(PLAIN_ALICE), CLUSTER),
    "again twice at once": proved(shaking(PLAIN), proving(PLAIN_ALICE), shaking(PLAIN)),
    "again, twice": proved(shaking(PLAIN), proving(PLAIN_ALICE), waited, shaking(PLAIN), proving(PLAIN_ALICE), CLUSTER),
    "again as another": proved(waited, shaking(PLAIN), proving(b"\0bob\0bob-secret")),
    "again with a wrong password": proved(waited, shaking(PLAIN), proving(b"\0alice\0wrong")),
    "again by another mechanism": proved(
        waited, shaking(SHA_256), proving(ScramClient(SHA_256, "alice", "scram-secret").first())
    ),
    "again by a mechanism that is not there": proved(waited, shaking("GSSAPI")),
    "a request between handshake and token": proved(waited, shaking(PLAIN), CLUSTER),
    "versions between handshake and token": proved(waited, shaking(PLAIN), asking("ApiVersions", 0)),
    "a token over the bound, again": proved(waited, shaking(PLAIN), lambda talk: talk.announce(TOKEN_BYTES_MAX + 1)),
}


def make_users(address: str) -> None:
    """alice comes by both kinds of SCRAM, bob by one; a Kafka's broker hears of it a moment later."""
    wanted = (("alice", SHA_256), ("alice", SHA_512), ("bob", SHA_256))
    salt = b"salt-of-the-tests"
    for user, mechanism in wanted:
        one = {
            "name": user,
            "mechanism": {SHA_256: 1, SHA_512: 2}[mechanism],
            "iterations": 4096,
            "salt": salt,
            "salted_password": salt_password(mechanism, "scram-secret", salt, 4096),
        }
        with closing(Talk(address)) as talk:
            talk.shake(PLAIN)
            assert talk.prove(b"\0admin\0admin-secret")["error_code"] == 0
            answer = talk._server.said("AlterUserScramCredentials", 0, {"deletions": [], "upsertions": [one]})
            assert answer["results"][0]["error_code"] == 0
    ends_at = time.monotonic() + PATIENCE_S
    for user, mechanism in wanted:
        while True:
            with closing(Talk(address)) as talk:
                talk.shake(mechanism)
                if talk.scram(mechanism, user, "scram-secret")[-1]["error_code"] == 0:
                    break
            assert time.monotonic() < ends_at, f"{user} does not come in by {mechanism}"
            time.sleep(PAUSE_S)


def played(address: str) -> Iterator[tuple[str, list[Any]]]:
    """All scenes with what was answered."""
    for name, scene in SCENES.items():
        with closing(Talk(address)) as talk:
            try:
                yield name, scene(talk)
            except TimeoutError as silent:
                raise AssertionError(f"{name}: no answer") from silent


class KafkaWithSasl(KafkaWithTokens):
    """It has SCRAM-SHA-512, too, and sessions end."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        text = self._properties.read_text().replace(
            f"listener.name.admin.sasl.enabled.mechanisms=PLAIN,{SHA_256}\n",
            f"listener.name.admin.sasl.enabled.mechanisms=PLAIN,{SHA_256},{SHA_512}\n"
            f"listener.name.admin.scram-sha-512.sasl.jaas.config={scram}\n",
        )
        self._properties.write_text(text + "".join(f"{key}={value}\n" for key, value in SETTINGS.items()))


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        kafka = KafkaWithSasl(Path(directory))
        kafka.start()
        try:
            make_users(kafka.administrators)
            found = list(played(kafka.administrators))
        finally:
            kafka.stop()
    lines = [f" {json.dumps(name)}: {json.dumps(answers)}" for name, answers in found]
    ANSWERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
