"""The way to etcd by the configuration's keys: users, passwords and certificates."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from pathlib import Path

import pytest

from core.errors import CoordinatorRefuses
from gateway.cluster.seat import etcd_settings, take_seat, warn_of_listeners
from gateway.config.layers import ConfigError
from gateway.config.loading import Config, describe, load
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.test_client import post
from tests.core.support import run

SECRET = "s3cr3t-Value"
PLAIN, TLS = "cluster=etcd://127.0.0.1:2379/c", "cluster=etcds://127.0.0.1:2379/c"
NEEDED = ("log.store=object", "tier2=file:/elsewhere", "node.id=1")


def seated(config: Config) -> None:
    """Take a seat, and give it back."""

    async def scenario() -> None:
        seat = await take_seat(config, "an-id")
        try:
            assert seat.coordination.is_fresh()
            assert seat.address == "127.0.0.1"
        finally:
            await asyncio.wait_for(seat.leave(), 10)

    run(scenario())


def with_secret(directory: Path, text: str = SECRET) -> Path:
    path = directory / "password"
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def test_a_user_whose_password_lies_in_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is in no message: neither when it serves, nor when etcd refuses it. That it travels in clear is said."""
    caplog.set_level(logging.DEBUG)
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    try:
        post(server, "auth/role/add", {"name": "root"})
        post(server, "auth/user/add", {"name": "root", "password": SECRET})
        post(server, "auth/user/grant", {"user": "root", "role": "root"})
        post(server, "auth/enable", {})
        cluster = f"cluster=etcd://{server.endpoint}/c"

        def configured(password: Path) -> Config:
            return load(None, {}, [*NEEDED, cluster, "etcd.user=root", f"etcd.password.file={password}"])

        right = configured(with_secret(tmp_path))
        seated(right)
        assert "in clear" in caplog.text
        with pytest.raises(CoordinatorRefuses) as refused:
            seated(configured(with_secret(tmp_path, f"{SECRET}-not")))
        assert "root" in str(refused.value)
        shown = "".join(map(str, describe(right)))
        assert "etcd.password" in shown
        assert SECRET not in caplog.text + str(refused.value) + repr(right) + shown
    finally:
        server.stop()


def test_a_certificate_whose_key_is_encrypted(tmp_path: Path) -> None:
    """With its password it serves; with another one it is refused, and nobody is asked on a terminal."""
    server = EtcdServer(tmp_path / "etcd", tls=True)
    server.start()
    try:
        files, key = server.directory, tmp_path / "encrypted.key"
        plain = str(files / "client.key")
        encrypt = ["openssl", "ec", "-aes256", "-in", plain, "-out", str(key), "-passout", f"pass:{SECRET}"]
        subprocess.run(encrypt, check=True, capture_output=True)
        tls = f"etcd.ca.file={files / 'ca.crt'}", f"etcd.cert.file={files / 'client.crt'}", f"etcd.key.file={key}"
        needed = [*NEEDED, f"cluster=etcds://{server.endpoint}/c", *tls]
        seated(load(None, {}, [*needed, f"etcd.key.password.file={with_secret(tmp_path)}"]))
        for wrong in ([], [f"etcd.key.password.file={with_secret(tmp_path, f'{SECRET}-not')}"]):
            with pytest.raises(CoordinatorRefuses, match=r"encrypted\.key") as refused:
                seated(load(None, {}, [*needed, *wrong]))
            assert SECRET not in str(refused.value)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ((PLAIN, "etcd.user=penstock"), "it needs a password"),
        ((PLAIN, f"etcd.password={SECRET}"), "there is no user"),
        ((PLAIN, "etcd.ca.file=/ca.pem"), "without TLS"),
        ((PLAIN, "etcd.cert.file=/c.pem", "etcd.key.file=/k.pem"), "without TLS"),
        ((TLS, "etcd.cert.file=/c.pem"), "one needs the other"),
        ((TLS, f"etcd.key.password={SECRET}"), "there is no key"),
    ],
)
def test_what_protects_nothing_is_refused(assignments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        load(None, {}, [*NEEDED, *assignments])
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("cluster", "is_told"),
    [
        ("cluster=etcd://127.0.0.1:2379,etcd2:2379/c", True),
        ("cluster=etcd://127.0.0.1:2379,localhost/c", False),
        ("cluster=etcds://etcd2:2379/c", False),
    ],
)
def test_whoever_can_read_the_way_to_etcd_is_told_of(
    cluster: str, caplog: pytest.LogCaptureFixture, *, is_told: bool
) -> None:
    """Users' and nodes' credentials lie there. On this machine nobody is on the way."""
    warn_of_listeners(etcd_settings(load(None, {}, [*NEEDED, cluster])))
    assert ("credentials go to etcd and back in clear" in caplog.text) is is_told
