"""`compose/secured.yaml`: with the secrets of its script and the user of its first lines, only who proves to be
somebody comes in, and may do what an ACL allows.

The file's command is run as a process, with its configuration on ports of this test.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.deploy.composing import COMPOSED, services_of
from tests.gateway.launching import Running, free_ports, run

pytestmark = pytest.mark.slow

INSIDE: Final = "/run/secrets/penstock"
CONFIG: Final = "/etc/penstock/penstock.toml"
COMMAND_S_MAX: Final = 60
STRANGER_S: Final = 1.0


def make_secrets(directory: Path, *host: str) -> dict[str, str]:
    """The variables that the script prints."""
    done = subprocess.run(
        [COMPOSED / "make-secrets", directory, *host], capture_output=True, text=True, check=True, timeout=COMMAND_S_MAX
    )
    export, *variables = shlex.split(done.stdout)
    assert export == "export"
    return dict(one.split("=", 1) for one in variables)


def first_user() -> list[str]:
    """The arguments of `penstock` by which the file's first lines make its administrator."""
    (line,) = re.findall(r"run --rm penstock (.*)$", (COMPOSED / "secured.yaml").read_text(), re.MULTILINE)
    return shlex.split(line)


def test_secrets(tmp_path: Path) -> None:
    """For their maker and the group; a second run keeps them; the certificate is for the host that was named."""
    made = make_secrets(tmp_path / "of ours", "kafka.example")
    names = ("ca.pem", "server.pem", "admin.password")
    before = [(tmp_path / "of ours" / name).read_bytes() for name in names]

    assert made["PENSTOCK_SECRETS"] == str(tmp_path / "of ours")
    assert made == make_secrets(tmp_path / "of ours", "kafka.example")
    assert [(tmp_path / "of ours" / name).read_bytes() for name in names] == before
    for path in (tmp_path / "of ours").rglob("*"):
        assert not path.stat().st_mode & stat.S_IRWXO, path
    assert not (tmp_path / "of ours" / "authority").stat().st_mode & stat.S_IRWXG
    verify = shlex.split("openssl verify -x509_strict -verify_hostname kafka.example -CAfile ca.pem server.pem")
    done = subprocess.run(verify, cwd=tmp_path / "of ours", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_asks_who_is_there(tmp_path: Path) -> None:
    """The administrator comes in and lets others in; strangers and wrong passwords do not get anywhere."""
    made = make_secrets(tmp_path / "secrets")
    password = (tmp_path / "secrets" / "admin.password").read_text().strip()
    service = services_of("secured")["penstock"]
    kafka = free_ports(2)
    http = f"localhost:{kafka + 1}"
    ports = {"9093": str(kafka), "9094": str(kafka + 1)}

    def here(text: str) -> str:
        """What is said to the container, for a process of this test."""
        text = text.replace(INSIDE, made["PENSTOCK_SECRETS"]).replace(CONFIG, str(tmp_path / "penstock.toml"))
        return re.sub(r"\b909[34]\b", lambda port: ports[port[0]], text).replace("0.0.0.0", "127.0.0.1")

    (tmp_path / "penstock.toml").write_text(here((COMPOSED / "secured.toml").read_text()))
    assert any(str(one).endswith(f"{CONFIG}:ro") for one in service["volumes"])
    assert any(str(one).endswith(f"{INSIDE}:ro") for one in service["volumes"])
    serve, *arguments = map(here, service["command"])
    assert serve == "serve"
    data = str(tmp_path / "gateway" / "data")
    assert (done := run(*map(here, first_user()), environ={"PENSTOCK_DATA_DIR": data})).returncode == 0, done.stderr

    def client(user: str, secret: str) -> AdminClient:
        return AdminClient(
            {
                "bootstrap.servers": f"localhost:{kafka}",
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": user,
                "sasl.password": secret,
                "ssl.ca.location": str(tmp_path / "secrets" / "ca.pem"),
                "log_level": 0,
            }
        )

    with contextlib.ExitStack() as ends:
        # No flag for the listener: it would be stronger than the file.
        gateway = Running(tmp_path / "gateway", *arguments, "--http", f"127.0.0.1:{kafka + 1}")
        ends.callback(gateway.process.wait)
        ends.callback(gateway.process.kill)
        gateway.ready()
        check = [sys.executable if word == "python" else here(word) for word in service["healthcheck"]["test"][1:]]
        subprocess.run(check, check=True, timeout=COMMAND_S_MAX)

        admin, alice = client("admin", password), client("alice", "of-alice")
        admin.create_topics([NewTopic("orders", 1)])["orders"].result(COMMAND_S_MAX)
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        new_user = UserScramCredentialUpsertion("alice", scram, b"of-alice")
        admin.alter_user_scram_credentials([new_user])["alice"].result(COMMAND_S_MAX)
        assert set(alice.list_topics(timeout=COMMAND_S_MAX).topics) == set()
        may = AclBinding(
            ResourceType.TOPIC, "orders", ResourcePatternType.LITERAL,
            "User:alice", "*", AclOperation.ALL, AclPermissionType.ALLOW,
        )  # fmt: skip
        admin.create_acls([may])[may].result(COMMAND_S_MAX)
        assert set(alice.list_topics(timeout=COMMAND_S_MAX).topics) == {"orders"}
        with pytest.raises(KafkaException, match="AUTHORIZATION_FAILED"):
            alice.create_topics([NewTopic("payments", 1)])["payments"].result(COMMAND_S_MAX)
        with pytest.raises(KafkaException):
            client("admin", "wrong").list_topics(timeout=STRANGER_S)
        with pytest.raises(KafkaException):
            AdminClient({"bootstrap.servers": f"localhost:{kafka}", "log_level": 0}).list_topics(timeout=STRANGER_S)

        context = ssl.create_default_context(cafile=str(tmp_path / "secrets" / "ca.pem"))

        def status(path: str, proof: str = "") -> int:
            headers = {"Authorization": f"Basic {base64.b64encode(proof.encode()).decode()}"} if proof else {}
            asked = urllib.request.Request(f"https://{http}{path}", headers=headers)
            try:
                with urllib.request.urlopen(asked, timeout=COMMAND_S_MAX, context=context) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        for path in ("/api/v1/streams", "/metrics"):
            assert status(path) == 401
            assert status(path, "admin:wrong") == 401
            assert status(path, f"admin:{password}") == 200
        assert gateway.terminate() == 0
    assert password not in gateway.err.read_text() + gateway.out.read_text()
