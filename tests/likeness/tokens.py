"""Delegation tokens: who may make, renew, end and see them, step by step, as a real Kafka answers it.

`python -m tests.likeness.tokens` starts a Kafka with users of SASL PLAIN and its StandardAuthorizer, and writes
`tokens.json`. Secrets and ids are not told but compared; times are told as what lies between them.
"""

from __future__ import annotations

import base64
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.gateway.security.scram_client import ScramClient
from tests.likeness.asking import CLOSED, Server
from tests.likeness.rights import PATIENCE_S, PAUSE_S, KafkaWithRights

ANSWERS: Final = Path(__file__).with_name("tokens.json")
USERS: Final = ("admin", "alice", "bob", "carol")
PLAIN, SCRAM = "PLAIN", "SCRAM-SHA-256"
HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR
SETTINGS: Final = {
    "delegation.token.secret.key": "a key of tests",
    "delegation.token.max.lifetime.ms": str(2 * DAY),
    "delegation.token.expiry.time.ms": str(DAY),
}
USER, TOKEN = 7, 6
DESCRIBE, CREATE_TOKENS, DESCRIBE_TOKENS = 8, 13, 14
ROUNDED_TO_MS: Final = 60_000


class Speaker(Server):
    """A client that proves to be a user; by a token if it has one."""

    def __init__(self, address: str, user: str, token: tuple[str, bytes] | None = None) -> None:
        super().__init__(address, own={})
        self._user = user
        self._token = token

    def _connected(self) -> socket.socket:
        self._connection = super()._connected()
        if self._token is None:
            if self._user:
                self._say(PLAIN, f"\0{self._user}\0{self._user}-secret".encode())
            return self._connection
        token_id, secret = self._token
        client = ScramClient(SCRAM, token_id, base64.b64encode(secret).decode(), extensions=",tokenauth=true")
        challenge = self._say(SCRAM, client.first())
        self._say(None, client.final(challenge))
        return self._connection

    def _say(self, mechanism: str | None, token: bytes) -> bytes:
        if mechanism is not None:
            assert self.said("SaslHandshake", 1, {"mechanism": mechanism})["error_code"] == 0
        answer = self.said("SaslAuthenticate", 1, {"auth_bytes": token})
        if answer["error_code"]:
            raise PermissionError(answer["error_code"])
        return bytes.fromhex(answer["auth_bytes"])


def people(*names: str, kind: str = "User") -> list[dict[str, str]]:
    return [{"principal_type": kind, "principal_name": name} for name in names]


class Script:
    """The steps, said to one server; each yields a name and what was answered."""

    def __init__(self, secured: str, open_to_all: str, connect: Callable[..., Speaker] = Speaker) -> None:
        self._open = open_to_all
        self._secured = secured
        self._speakers: dict[str, Speaker] = {}
        self._tokens: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        for speaker in self._speakers.values():
            speaker.close()

    def _by(self, who: str) -> Speaker:
        if who not in self._speakers:
            address = self._secured if who else self._open
            self._speakers[who] = Speaker(address, who)
        return self._speakers[who]

    def _say(self, who: str, api: str, version: int, **body: Any) -> Any:
        return self._by(who).said(api, version, body)

    def make(
        self, who: str, name: str, *, of: str | None = None, kind: str = "User", life: int = -1, renewers: Any = ()
    ) -> Any:
        body = {
            "owner_principal_type": kind if of else None,
            "owner_principal_name": of,
            "renewers": list(renewers),
            "max_lifetime": life,
        }
        answer = self._say(who, "CreateDelegationToken", 3, **body)
        if not answer["error_code"]:
            self._tokens[name] = answer
            self._until_known(name)
        return _told(answer)

    def _until_known(self, name: str, *, is_there: bool = True) -> None:
        """A Kafka's broker hears of what its controller has done a moment later."""
        ends_at = time.monotonic() + PATIENCE_S
        while (name in self._names(self._say("admin", "DescribeDelegationToken", 3, owners=None))) is not is_there:
            assert time.monotonic() < ends_at, f"the broker has not heard of the token {name}"
            time.sleep(PAUSE_S)

    def _names(self, answer: Any) -> list[str]:
        ids = {made["token_id"]: name for name, made in self._tokens.items()}
        return sorted(ids.get(token["token_id"], "another") for token in answer["tokens"])

    def renew(self, who: str, name: str, period: int = -1) -> Any:
        return self._with("RenewDelegationToken", who, name, renew_period=period)

    def expire(self, who: str, name: str, period: int = -1) -> Any:
        return self._with("ExpireDelegationToken", who, name, expiry_time_period=period)

    def _with(self, api: str, who: str, name: str, **body: Any) -> Any:
        made = self._tokens.get(name)
        answer = self._say(who, api, 2, hmac=bytes.fromhex(made["hmac"]) if made else b"none", **body)
        ends, failed = answer["expiry_timestamp"], answer["error_code"]
        after_ms = ends if failed or made is None else _rounded(ends - made["issue_timestamp"])
        return {"error_code": failed, "after_ms": after_ms}

    def see(self, who: str, owners: Any = None) -> Any:
        answer = self._say(who, "DescribeDelegationToken", 3, owners=owners)
        alike = all(
            token["hmac"] == self._tokens[name]["hmac"]
            for token in answer["tokens"]
            for name, made in self._tokens.items()
            if made["token_id"] == token["token_id"]
        )
        return {"error_code": answer["error_code"], "tokens": self._names(answer), "secrets_are_right": alike}

    def allow(self, principal: str, kind: int, name: str, operation: int) -> Any:
        acl = {
            "resource_type": kind,
            "resource_name": name if kind == USER else self._tokens[name]["token_id"],
            "resource_pattern_type": 3,
            "principal": f"User:{principal}",
            "host": "*",
            "operation": operation,
            "permission_type": 3,
        }
        (result,) = self._say("admin", "CreateAcls", 2, creations=[acl])["results"]
        time.sleep(1)  # until a Kafka's broker has heard of it
        return result["error_code"]

    def come(self, name: str, secret: bytes | None = None, *, as_speaker: str = "") -> Any:
        """Come in by a token."""
        made = self._tokens.get(name)
        token_id, proof = (made["token_id"], bytes.fromhex(made["hmac"])) if made else (name, b"none")
        speaker = Speaker(self._secured, "", (token_id, secret or proof))
        try:
            answer = speaker.said("DescribeCluster", 0, {})
        except PermissionError as refused:
            speaker.close()
            return {"sasl_error_code": refused.args[0]}
        if as_speaker:
            self._speakers[as_speaker] = speaker
        return answer if answer == CLOSED else {"error_code": answer["error_code"]}

    def steps(self) -> Iterator[tuple[str, Any]]:
        yield "nobody's token", self.make("", "none")
        yield "alice's token", self.make("alice", "own", renewers=people("bob"))
        yield "a short life", self.make("alice", "short", life=HOUR)
        yield "a life longer than allowed", self.make("alice", "long", life=9 * DAY)
        yield "a life of no length", self.make("alice", "zero", life=0)
        yield "a token for bob, by alice", self.make("alice", "none", of="bob")
        yield "a token for herself, by name", self.make("alice", "named", of="alice")
        yield "a token for bob, by a super user", self.make("admin", "given", of="bob")
        yield "alice may make tokens of carol", self.allow("alice", USER, "User:carol", CREATE_TOKENS)
        yield "a token for carol, by alice", self.make("alice", "for carol", of="carol")
        yield "a renewer that is no user", self.make("alice", "none", renewers=people("x", kind="Group"))
        yield "a token for a group", self.make("admin", "none", of="staff", kind="Group")
        yield "a renewer twice", self.make("alice", "twice", renewers=people("bob", "bob"))

        yield "alice sees", self.see("alice")
        yield "bob sees", self.see("bob")
        yield "carol sees", self.see("carol")
        yield "nobody sees", self.see("")
        yield "alice sees none", self.see("alice", [])
        yield "alice sees bob's", self.see("alice", people("bob"))
        yield "a super user sees alice's", self.see("admin", people("alice"))
        yield "carol may describe a token", self.allow("carol", TOKEN, "own", DESCRIBE)
        yield "carol sees a token", self.see("carol")
        yield "carol may describe bob's tokens", self.allow("carol", USER, "User:bob", DESCRIBE_TOKENS)
        yield "carol sees bob's", self.see("carol")

        yield "alice renews", self.renew("alice", "own")
        yield "alice renews for an hour", self.renew("alice", "own", HOUR)
        yield "alice renews for longer than allowed", self.renew("alice", "own", 9 * DAY)
        yield "a renewer renews", self.renew("bob", "own", 2 * HOUR)
        yield "another renews", self.renew("carol", "own")
        yield "a super user renews", self.renew("admin", "own")
        yield "the requester renews what is carol's", self.renew("alice", "for carol")
        yield "beyond the token's life", self.renew("alice", "short", DAY)
        yield "what is no token", self.renew("alice", "nothing")
        yield "nobody renews", self.renew("", "own")

        yield "by a token", self.come("own", as_speaker="token")
        yield "by another's secret", self.come("own", b"x" * 64)
        yield "by what is no token", self.come("nothing")
        yield "a token makes a token", self.make("token", "none")
        yield "a token renews itself", self.renew("token", "own")
        yield "a token ends itself", self.expire("token", "own")
        yield "a token sees", self.see("token")

        yield "another ends it", self.expire("carol", "own")
        yield "a super user ends it", self.expire("admin", "own")
        yield "alice lets it end in an hour", self.expire("alice", "own", HOUR)
        yield "alice lets it end after its life", self.expire("alice", "own", 9 * DAY)
        yield "a renewer ends it at once", self.expire("bob", "own")
        self._until_known("own", is_there=False)
        yield "by a token that is gone", self.come("own")
        yield "it is gone", self.renew("alice", "own")
        yield "nothing is ended", self.expire("alice", "nothing")
        yield "who came by it stays", self._say("token", "DescribeCluster", 0)["error_code"]
        yield "alice ends another in no time", self.expire("alice", "zero", 0)
        time.sleep(1.1)
        yield "what has ended is not renewed", self.renew("alice", "zero")
        yield "nor ended later", self.expire("alice", "zero", HOUR)
        yield "by what has ended nobody comes", self.come("zero") != {"error_code": 0}
        yield "it can be removed", self.expire("alice", "zero")["error_code"]


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    made = answer["issue_timestamp"]
    told = {name: value for name, value in answer.items() if "principal" in name or name == "error_code"}
    for name in ("expiry_timestamp", "max_timestamp"):
        told[name] = answer[name] if made < 0 else _rounded(answer[name] - made)
    return told | {"secret_bytes": len(answer["hmac"]) // 2, "id_chars": len(answer["token_id"])}


def _rounded(ms: int) -> int:
    return round(ms / ROUNDED_TO_MS) * ROUNDED_TO_MS


class KafkaWithTokens(KafkaWithRights):
    """Its users have passwords of PLAIN, and tokens come by SCRAM."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        text = self._properties.read_text()
        users = " ".join(f'user_{user}="{user}-secret"' for user in USERS)
        text = text.replace('required user_admin="admin-secret";', f"required {users};")
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        text += f"listener.name.admin.sasl.enabled.mechanisms=PLAIN,{SCRAM}\n"
        text += f"listener.name.admin.scram-sha-256.sasl.jaas.config={scram}\n"
        self._properties.write_text(text + "".join(f"{key}={value}\n" for key, value in SETTINGS.items()))


def written(steps: Iterator[tuple[str, Any]]) -> str:
    lines = [f" {json.dumps(name)}: {json.dumps(answer)}" for name, answer in steps]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        kafka = KafkaWithTokens(Path(directory))
        kafka.start()
        script = Script(kafka.administrators, kafka.address)
        try:
            text = written(script.steps())
        finally:
            script.close()
            kafka.stop()
    ANSWERS.write_text(text)


if __name__ == "__main__":
    main()
