"""Credentials that are replaced while the process runs; with a real MinIO server."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.credentials import AssumeRoleProvider, StaticProvider

from gateway.config.loading import load
from gateway.config.model import Config
from gateway.long_term.key_rotation import key_reader
from gateway.long_term.opening import open_storage
from tests.tier2.loops import in_loop
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer
from tier2 import rotating_keys
from tier2.rotating_keys import Keys, RotatingKeys
from tier2.storage import Denied, Storage


class Users:
    """The keys that the server accepts, and the ones that it no longer accepts."""

    def __init__(self, server: MinioServer) -> None:
        self._server = server
        self._admin = MinioAdmin(
            endpoint=f"127.0.0.1:{server.port}",
            credentials=StaticProvider(ROOT_USER, ROOT_PASSWORD),
            secure=False,
            region="us-east-1",
        )

    def add(self) -> tuple[str, str]:
        """A new one, who may do everything."""
        user = f"gateway-{secrets.token_hex(4)}", secrets.token_hex(16)
        self._admin.user_add(*user)
        self._admin.attach_policy(["readwrite"], user=user[0])
        return user

    def remove(self, user: tuple[str, str]) -> None:
        self._admin.user_remove(user[0])

    def session(self, user: tuple[str, str]) -> tuple[str, str, str]:
        """Keys that go with the user: key, secret, token."""
        role = AssumeRoleProvider(
            sts_endpoint=self._server.endpoint, access_key=user[0], secret_key=user[1], region="us-east-1"
        ).retrieve()
        assert role.session_token is not None
        return role.access_key, role.secret_key, role.session_token


def write_keys(path: Path, access_key: str, secret_key: str, token: str = "") -> None:
    """As those do who rotate keys: all of the file or nothing."""
    text = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
    path.with_suffix(".new").write_text(text + (f"aws_session_token = {token}\n" if token else ""))
    os.replace(path.with_suffix(".new"), path)


def write_toml(path: Path, access_key: str, secret_key: str) -> None:
    path.write_text(f'tier2.access.key = "{access_key}"\ntier2.secret.key = "{secret_key}"\n')


def config_for(server: MinioServer, *assignments: str, file: Path | None = None) -> Config:
    place = ("tier2=s3://rotating/p", f"tier2.endpoint={server.endpoint}", "tier2.region=us-east-1")
    return load(file, {}, (*place, *assignments))


async def all_calls(storage: Storage) -> None:
    """One of each kind: a small put, one in parts, a read, a listing, a look, a deletion."""
    await storage.put("small", b"some bytes")
    await storage.put("large", bytes(9 << 20))
    assert await storage.get_range("small", 5, 5) == b"bytes"
    assert [info.key async for info in storage.list("")] == ["large", "small"]
    assert await storage.stat("large") is not None
    await storage.delete("large")


@pytest.mark.slow
class TestAgainstAServer:
    @in_loop
    async def test_a_rotated_file(self, minio: MinioServer, tmp_path: Path) -> None:
        """Keys that are refused are read again from the credentials file, and the calls go well."""
        users, path = Users(minio), tmp_path / "credentials"
        first = users.add()
        write_keys(path, *first)
        storage = await open_storage(config_for(minio, f"tier2.credentials.file={path}"), {})
        assert storage is not None
        await all_calls(storage)

        second = users.add()
        write_keys(path, *second)
        users.remove(first)
        await all_calls(storage)
        await storage.close()

    @in_loop
    async def test_a_session_that_ends(self, minio: MinioServer, tmp_path: Path) -> None:
        """A session token that is no longer valid is replaced by the one that is in the file now."""
        users, path = Users(minio), tmp_path / "credentials"
        first, second = users.add(), users.add()
        write_keys(path, *users.session(first))
        storage = await open_storage(config_for(minio, f"tier2.credentials.file={path}"), {})
        assert storage is not None
        await all_calls(storage)

        users.remove(first)  # and with the user its sessions
        write_keys(path, *users.session(second))
        await all_calls(storage)
        await storage.close()

    @in_loop
    async def test_a_rotated_configuration_file(self, minio: MinioServer, tmp_path: Path) -> None:
        """Keys in the configuration file are read again from there, by a process that opens the storage later too."""
        users, path = Users(minio), tmp_path / "penstock.toml"
        first, second = users.add(), users.add()
        write_toml(path, *first)
        config = config_for(minio, file=path)
        storage = await open_storage(config, {})
        assert storage is not None
        await all_calls(storage)

        write_toml(path, *second)
        users.remove(first)
        later = await open_storage(config, {})
        assert later is not None
        await all_calls(later)
        await all_calls(storage)
        await storage.close()
        await later.close()

    @in_loop
    async def test_a_rotated_certificate(self, tmp_path: Path) -> None:
        """A server that comes back with another certificate is believed once the file vouches for that one."""
        server = MinioServer(tmp_path, tls=True)
        server.start()
        try:
            keys = (f"tier2.access.key={ROOT_USER}", f"tier2.secret.key={ROOT_PASSWORD}")
            storage = await open_storage(config_for(server, *keys, f"tier2.ca.file={server.ca_file}"), {})
            assert storage is not None
            await all_calls(storage)

            server.kill()
            server.certify()
            server.start()
            await all_calls(storage)
            await storage.close()
        finally:
            server.kill()

    @in_loop
    async def test_nothing_new(self, minio: MinioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """While the file has the keys that are refused, or is half written, calls are refused; then they go well."""
        monkeypatch.setattr(rotating_keys, "LOOK_EVERY_S", 0.0)
        users, path = Users(minio), tmp_path / "credentials"
        first = users.add()
        write_keys(path, *first)
        storage = await open_storage(config_for(minio, f"tier2.credentials.file={path}"), {})
        assert storage is not None
        users.remove(first)
        with pytest.raises(Denied, match="not known there"):
            await storage.put("small", b"")
        path.write_text("[default]\naws_access_key_id = ")
        with pytest.raises(Denied, match="not known there"):
            await storage.put("small", b"")

        second = users.add()
        write_keys(path, *second)
        await all_calls(storage)
        await storage.close()


def test_a_file_is_not_read_for_each_refusal() -> None:
    """Requests that are refused for another reason than the keys cost one reading a second, not one each."""
    readings: list[Keys] = []

    def read() -> Keys:
        readings.append(Keys(access_key="a", secret_key="b"))
        return readings[-1]

    keys = RotatingKeys(Keys(access_key="a", secret_key="b"), read)

    assert [keys.are_newer_than(keys.current) for _ in range(1000)] == [False] * 1000
    assert len(readings) == 1


def test_what_cannot_be_read_is_told_without_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A credentials file that is gone leaves the keys as they are; the log line names the file and no secret."""
    path = tmp_path / "credentials"
    write_keys(path, "an-access-key", "a-secret-key")
    config = load(None, {}, ("tier2=s3://b", f"tier2.credentials.file={path}"))
    read = key_reader(config, {})
    assert read() == Keys(access_key="an-access-key", secret_key="a-secret-key")

    path.write_text("[default]\naws_access_key_id = an-access-key\naws_secret_access_key\n")
    assert read() is None
    path.unlink()
    assert read() is None
    assert str(path) in str([record.__dict__ for record in caplog.records])
    assert "an-access-key" not in str([record.__dict__ for record in caplog.records])
    assert "a-secret" not in repr(config) + repr(Keys(access_key="", secret_key="a-secret-key"))
