"""`http.auth`: who comes in over HTTP, by which proof, with which rights, and what strangers are told."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.testing import CliRunner

from gateway.cli.streams import app
from tests.gateway.forking import run, serving
from tests.gateway.launching import PENSTOCK, free_ports
from tests.gateway.security.certificates import Files, make

pytestmark = pytest.mark.slow

PASSWORD: Final = "wonder-land"
SIGNER: Final = rsa.generate_private_key(65_537, 2_048)
OVERVIEW: Final = "/api/v1/overview"
NEED_A_USER: Final = ("streams", "streams/x", "groups", "events", "tier2/chunks", "openapi.json")
STANDARD: Final = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@dataclass(frozen=True)
class Port:
    """An https port and what clients need for it."""

    address: str
    files: Files
    audit: Path

    def call(
        self,
        path: str,
        authorization: str = "",
        *,
        certificate: Path | None = None,
        method: str = "GET",
        **headers: str,
    ) -> tuple[int, Mapping[str, str], str]:
        context: ssl.SSLContext = self.files.context()
        if certificate is not None:
            context.load_cert_chain(certificate)
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=20)
        given = {"Authorization": authorization} if authorization else {}
        connection.request(method, path, headers=given | headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.getheaders()), text

    def status(self, path: str, authorization: str = "", **more: Any) -> int:
        return self.call(path, authorization, **more)[0]


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def signed(user: str = "svc", key: Any = SIGNER, algorithm: str = "RS256", **claims: Any) -> str:
    meant = {"sub": user, "aud": "penstock", "exp": int(time.time()) + 60} | claims
    return f"Bearer {jwt.encode(meant, key, algorithm, headers={'kid': 'one'})}"


def settings(directory: Path, files: Files) -> list[str]:
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True)
    (directory / "jwks.json").write_text(json.dumps({"keys": [jwk | {"kid": "one"}]}))
    (directory / "password").write_text(f"{PASSWORD}\n")
    for user in ("alice", "eve"):
        add = ["users", "add", user, "--password-file", str(directory / "password")]
        subprocess.run([PENSTOCK, *add, "--data-dir", str(directory / "g" / "data")], check=True)
    given = {
        "http.auth": "basic,bearer,token,mtls",
        "http.token": "a-token",
        "http.token.user": "robot",
        "http.metrics.open": "false",
        "http.tls.keystore.location": files.keystore,
        "http.tls.truststore.location": files.truststore,
        "ssl.principal.mapping.rules": "RULE:^CN=(.*?)$/$1/",
        "sasl.oauthbearer.jwks.endpoint.url": (directory / "jwks.json").as_uri(),
        "sasl.oauthbearer.expected.audience": "penstock",
        "authorizer.class.name": STANDARD,
        "super.users": "User:alice;User:svc;User:robot;User:carol",
        "audit.log": directory / "audit.log",
        "connection.failed.authentication.delay.ms": 1,
    }
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


def _serves(port: Port) -> bool:
    """The port of several workers opens a moment after they serve, and the keys of tokens have been read."""
    try:
        return port.status(OVERVIEW, signed()) == 200
    except ConnectionError:
        return False


@pytest.fixture(scope="module", params=[1, 2], ids=["one", "workers"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """A gateway of one process, and one of two workers behind one port."""
    directory = tmp_path_factory.mktemp("users")
    files = make(directory)
    sets = settings(directory, files)
    (directory / "g").mkdir(exist_ok=True)
    if request.param > 1:
        sets += ["--set", f"workers={request.param}", "--set", "containers=2"]
        sets += ["--listen", f"127.0.0.1:{free_ports(4)}"]
    with serving(directory / "g", "--http", "localhost:0", *sets) as gateway:
        made = Port(gateway.ready()["http"], files, directory / "audit.log")
        deadline = time.monotonic() + 20
        while not _serves(made):
            assert time.monotonic() < deadline, "signed tokens do not let in"
            time.sleep(0.05)
        yield made


def test_each_way(port: Port) -> None:
    """A password, a signed token, the configured token and a certificate each prove their user, who has rights."""
    assert port.status(OVERVIEW, basic("alice", PASSWORD)) == 200
    assert port.status(OVERVIEW, basic("alice", PASSWORD)) == 200  # now remembered
    assert port.status(OVERVIEW, signed()) == 200
    assert port.status(OVERVIEW, "Bearer a-token") == 200
    assert port.status(OVERVIEW, certificate=port.files.client("carol")) == 200


def test_the_streams_command_by_each_way(port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`penstock streams` proves its user by flags or by a profile; without a proof, or an authority, it says what is
    missing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    password, token = tmp_path / "password", tmp_path / "token"
    password.write_text(f"{PASSWORD}\n")
    token.write_text("a-token\n")

    def ls(*flags: str, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
        said = CliRunner().invoke(app, ["ls", "--json", "--url", f"https://{port.address}", *flags], env=environ)
        return said.exit_code, said.output

    trusts = ("--ca", str(port.files.truststore))
    proofs = [
        ls("--user", "alice", "--password-file", str(password), *trusts),
        ls("--token-file", str(token), *trusts),
        ls(*trusts, environ={"PENSTOCK_HTTP_TOKEN": signed().removeprefix("Bearer ")}),
        ls("--cert", str(port.files.client("carol")), *trusts),
    ]
    unknown, untrusted = ls(*trusts), ls("--token-file", str(token))
    (tmp_path / "penstock").mkdir()
    profile = {"user": "alice", "password_file": str(password), "ca": str(port.files.truststore)}
    settings = "".join(f"{key} = {json.dumps(value)}\n" for key, value in profile.items())
    (tmp_path / "penstock" / "profiles.toml").write_text(f'current = "prod"\n[profile.prod]\n{settings}')
    proofs.append(ls())

    assert [(code, sorted(json.loads(told))) for code, told in proofs] == [(0, ["streams", "total"])] * 5
    assert (unknown[0], "asks who you are" in unknown[1]) == (1, True)
    assert (untrusted[0], "--ca says who vouches for it" in untrusted[1]) == (1, True)


@pytest.mark.parametrize("port", [1], ids=["one"], indirect=True)
def test_the_tier2_command(port: Port, tmp_path: Path) -> None:
    """`penstock tier2 ls` asks the gateway of its directory over TLS: it knows that one's certificate, and proves its
    user by a password, or by the token of the configuration."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    store = ["--data-dir", str(port.audit.parent / "g" / "data"), "--set", "http.listen=localhost:0"]
    store += ["--set", f"http.tls.keystore.location={port.files.keystore}"]
    other = make(tmp_path).keystore

    def ls(*flags: str) -> tuple[int, str]:
        said = run("tier2", "ls", "--json", *store, *flags, environ={"XDG_CONFIG_HOME": str(tmp_path)})
        return said.returncode, said.stdout + said.stderr

    alice = ("--user", "alice", "--password-file", str(password))
    proofs = [ls(*alice), ls("--set", "http.token=a-token")]
    unknown, stranger = ls(), ls(*alice, "--set", f"http.tls.keystore.location={other}")

    assert [(code, sorted(json.loads(told))) for code, told in proofs] == [(0, ["chunks", "streams"])] * 2
    assert (unknown[0], "asks who you are" in unknown[1]) == (2, True)
    assert (stranger[0], "certificate verify failed" in stranger[1]) == (2, True)


def test_rights(port: Port) -> None:
    """A user without rights is refused by name, and the audit log hears of it; changes go by rights alone."""
    status, _, text = port.call(OVERVIEW, basic("eve", PASSWORD))
    assert (status, "User:eve" in text) == (403, True)
    assert port.status(OVERVIEW, signed("stranger")) == 403
    assert port.status(OVERVIEW, certificate=port.files.client("mallory")) == 403
    assert port.status("/api/v1/streams/none/seal", basic("eve", PASSWORD), method="POST") == 403
    assert port.status("/api/v1/streams/none/seal", basic("alice", PASSWORD), method="POST") == 404
    foreign = {"Origin": "https://elsewhere.example"}
    assert port.status("/api/v1/streams/none/seal", basic("alice", PASSWORD), method="POST", **foreign) == 403
    lines = [json.loads(line) for line in port.audit.read_text().splitlines()]
    assert {line["principal"] for line in lines if line["event"] == "denied"} >= {"User:eve", "User:stranger"}


@pytest.mark.parametrize(
    "authorization",
    [
        basic("alice", "wrong"),
        basic("nobody", PASSWORD),
        basic("alice", ""),
        "Basic !!!",
        "Basic",
        "Bearer",
        "Bearer another-token",
        "Digest x",
        signed(aud="another"),
        signed(exp=1),
        signed(key="a-secret-of-thirty-two-characters", algorithm="HS256"),
        signed(key=rsa.generate_private_key(65_537, 2_048)),
        "",
    ],
)
def test_strangers_are_told_nothing(port: Port, authorization: str) -> None:
    """Whatever is wrong with a proof, and whatever exists: one answer."""
    answers = {port.call(path, authorization)[::2] for path in (OVERVIEW, OVERVIEW)}
    ((status, text),) = answers
    expected = {
        "type": "about:blank",
        "title": "Who are you?",
        "status": 401,
        "detail": "http.auth asks for a user, by basic or bearer or mtls or token",
        "instance": OVERVIEW,
    }
    assert (status, json.loads(text)) == (401, expected)
    challenge = port.call(OVERVIEW, authorization)[1]["WWW-Authenticate".lower()]
    assert challenge == 'Basic realm="penstock", charset="UTF-8", Bearer'


@pytest.mark.parametrize("path", ["/metrics", *(f"/api/v1/{what}" for what in NEED_A_USER)])
def test_nothing_without_a_user(port: Port, path: str) -> None:
    """Data and metrics are for users; a header that names one is none."""
    assert port.status(path) == 401
    assert port.status(path, **{"X-Penstock-User": "alice"}) == 401
    assert port.status(path, "Bearer a-token") in (200, 404)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_open_to_all(port: Port, path: str) -> None:
    """Probes and the console's page, which is the same for all, need no user."""
    assert port.status(path) == 200


def test_failures_are_told(port: Port) -> None:
    """The audit log hears of a failed authentication, and never of the password."""
    assert port.status(OVERVIEW, basic("alice", "a-wrong-password")) == 401
    text = port.audit.read_text()
    failed = [line for line in map(json.loads, text.splitlines()) if line["event"] == "authentication failed"]
    assert {(line["mechanism"], line["claimed"]) for line in failed} >= {("basic", "alice")}
    assert "a-wrong-password" not in text
