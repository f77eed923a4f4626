"""What a refused start tells: what happened, to what, and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.http import Endpoint
from core.cluster.etcd.wire import Range
from core.cluster.sqlite_registry import SqliteRegistry
from core.errors import TierUnavailable
from gateway import __version__
from gateway.config.layers import ConfigError
from gateway.config.loading import Config, load
from gateway.data_directory import DataDirectory, UnusableDirectory
from gateway.exits import ExitCode
from gateway.groups.persistence import UnreadableRecord
from gateway.long_term.opening import LongTermUnusable, open_storage
from gateway.network.binding import bind_all
from gateway.process.endings import End, end_of
from gateway.process.serving import Place, forget
from gateway.security.audit import open_audit
from gateway.security.listeners import http_security, secured_listeners
from tests.gateway.security.certificates import Authority
from tier2.storage import Denied, Unavailable

pytestmark = pytest.mark.slow

NOWHERE: Final = "/nowhere/at/all"
ANOTHER_MACHINES: Final = "192.0.2.1"
WITHIN_S: Final = 1.0


def end_after(work: Callable[[], object]) -> End:
    """How a command ends that begins with this."""
    with pytest.raises(Exception) as refused:  # noqa: PT011  which one it is must not matter
        work()
    end = end_of(refused.value)
    assert end is not None, f"taken for a defect: {refused.value!r}"
    return end


def told(end: End, code: ExitCode) -> str:
    """The one line."""
    assert end.code is code
    (line,) = end.lines
    return line


def config(tmp_path: Path, *assignments: str) -> Config:
    own = (f"data.dir={tmp_path / 'data'}", "listeners=127.0.0.1:0", "http.listen=off")
    return load(None, {}, (*own, *assignments))


def taken(asked: Config) -> object:
    return Place.take(asked)


class TestPorts:
    def test_another_process_has_it(self, tmp_path: Path) -> None:
        """The owner and the flags are named."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            line = told(end_after(partial(taken, config(tmp_path, f"listeners={address}"))), ExitCode.TAKEN)

        assert line.startswith(f"cannot listen on {address}: pid {os.getpid()} ")
        assert "choose another address with --listen (for Kafka's clients) or --http" in line

    @pytest.mark.parametrize(
        ("address", "why", "remedy"),
        [
            (f"{ANOTHER_MACHINES}:0", os.strerror(errno.EADDRNOTAVAIL), "name an address of this machine"),
            ("a..b:0", "no name that a network knows", "correct --listen"),
            (f"{'a' * 64}.b:0", "no name that a network knows", "correct --listen"),
        ],
    )
    def test_no_address_of_this_machine(self, tmp_path: Path, address: str, why: str, remedy: str) -> None:
        """The address, the reason and the remedy."""
        for asked in (f"listeners={address}", f"http.listen={address}"):
            line = told(end_after(partial(taken, config(tmp_path, asked))), ExitCode.CONFIGURATION)

            assert line.startswith(f"cannot listen on {address}: ")
            assert why in line
            assert remedy in line

    def test_a_port_that_needs_rights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It names the right, and does not take the address for data of another user."""

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(socket.socket, "bind", refuse)
        line = told(end_after(lambda: bind_all(config(tmp_path).kafka_listeners)), ExitCode.CONFIGURATION)

        assert "CAP_NET_BIND_SERVICE" in line
        assert "owner" not in line


class TestDirectories:
    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        """What is no directory, or lies in none, cannot be one."""
        (tmp_path / "data").touch()
        for place in ("data", "data/below"):
            asked = config(tmp_path, f"data.dir={tmp_path / place}")
            line = told(end_after(partial(taken, asked)), ExitCode.CONFIGURATION)

            assert line.startswith(f"data.dir {tmp_path / place} cannot be used: ")
            assert line.endswith("Correct --data-dir or data.dir")

    def test_another_process_has_it(self, tmp_path: Path) -> None:
        """The process is named."""
        with contextlib.closing(_Owned(tmp_path / "data")):
            line = told(end_after(partial(taken, config(tmp_path))), ExitCode.TAKEN)

        assert line == (
            f"{tmp_path / 'data'} is in use by process {os.getpid()}; stop that process or use another directory"
        )

    @pytest.mark.parametrize(
        ("changed", "code", "words"),
        [
            ({"format": 1_000, "needs_release": "42.0.0"}, ExitCode.CONFIGURATION, "use Penstock 42.0.0 or later"),
            ({"directory": "first"}, ExitCode.CORRUPT, "put the file back from a backup"),
            ({"directory": 1, "directories": 2}, ExitCode.CONFIGURATION, "name the first one first"),
            ({"containers": -1}, ExitCode.CORRUPT, "put the file back from a backup"),
            ({"cluster_id": 7}, ExitCode.CORRUPT, "put the file back from a backup"),
        ],
    )
    def test_an_identity_that_is_none(
        self, tmp_path: Path, changed: dict[str, object], code: ExitCode, words: str
    ) -> None:
        """Whatever stands in penstock.json, it is one line with the file's place."""
        _Owned(tmp_path / "data").close()
        identity = tmp_path / "data" / "penstock.json"
        identity.write_text(json.dumps(json.loads(identity.read_text()) | changed))
        line = told(end_after(partial(taken, config(tmp_path))), code)

        assert str(tmp_path / "data") in line
        assert words in line

    @pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"format": 1}', "[" * 50_000, "\0" * 100])
    def test_an_identity_that_nobody_wrote(self, tmp_path: Path, content: str) -> None:
        """Torn, emptied or made by hand: it is damage, and never a traceback."""
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "penstock.json").write_text(content)
        line = told(end_after(partial(taken, config(tmp_path))), ExitCode.CORRUPT)

        assert line.startswith(f"{tmp_path / 'data' / 'penstock.json'}: ")
        assert line.endswith("The data beside it is not touched; put the file back from a backup")

    def test_rights_that_are_lacking(self) -> None:
        """The words of the configuration are kept: which key, which file, and who runs."""
        lack = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/penstock.lock")

        def work() -> None:
            raise UnusableDirectory(Path("/data"), lack) from lack

        line = told(end_after(work), ExitCode.CONFIGURATION)
        assert line.startswith("data.dir /data cannot be used: Permission denied (/data/penstock.lock). Correct")
        assert "This process runs as user" in line

    def test_a_ready_file_that_is_a_directory(self, tmp_path: Path) -> None:
        """It is no file of ours, and stays."""
        line = told(end_after(lambda: forget(tmp_path, config(tmp_path))), ExitCode.CONFIGURATION)

        assert line == f"--ready-file {tmp_path}: it is a directory: name a file in it"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read all files")
    def test_a_registry_that_may_not_be_read(self, tmp_path: Path) -> None:
        """What workers share lacks rights as other files do: it is not damaged."""
        path = tmp_path / "registry.db"
        path.touch(mode=0)
        line = told(end_after(lambda: asyncio.run(SqliteRegistry.open(path))), ExitCode.CONFIGURATION)

        assert line.startswith(f"{path}: Permission denied. This process runs as user ")


class _Owned:
    """A data directory that this process owns."""

    def __init__(self, path: Path) -> None:
        self._data = DataDirectory.acquire(path, __version__)

    def close(self) -> None:
        self._data.release()


class TestFilesOfSecurity:
    @pytest.fixture
    def keystore(self, tmp_path: Path) -> Path:
        """A key with a certificate."""
        issued = Authority().issue()
        path = tmp_path / "server.pem"
        path.write_text(issued.key_pem() + issued.pem)
        return path

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "cannot be read: No such file or directory"),
            ("nothing", "it must have one (-----BEGIN PRIVATE KEY-----)"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "its private key cannot be read"),
        ],
    )
    def test_a_key(self, tmp_path: Path, content: str | None, words: str) -> None:
        """Of a listener and of HTTP alike: the file, and what it must have."""
        path = tmp_path / "server.pem"
        if content is not None:
            path.write_text(content)
        of_listener = config(tmp_path, "listeners=SSL://127.0.0.1:0", f"ssl.keystore.location={path}")
        of_http = config(tmp_path, "http.listen=127.0.0.1:0", f"http.tls.keystore.location={path}")
        works: tuple[Callable[[], object], ...] = (
            partial(secured_listeners, of_listener),
            partial(http_security, of_http),
        )
        for work in works:
            line = told(end_after(work), ExitCode.CONFIGURATION)

            assert f"{path}: " in line
            assert words in line

    def test_authorities(self, tmp_path: Path, keystore: Path) -> None:
        """The file of those who vouch for clients."""
        path = tmp_path / "authorities.pem"
        path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        asked = config(
            tmp_path,
            "listeners=SSL://127.0.0.1:0",
            f"ssl.keystore.location={keystore}",
            "ssl.client.auth=required",
            f"ssl.truststore.location={path}",
        )
        line = told(end_after(lambda: secured_listeners(asked)), ExitCode.CONFIGURATION)

        assert f"{path}: its certificate number 1 cannot be read" in line

    @pytest.mark.parametrize(
        ("content", "words"), [(None, "No such file or directory"), ("alice:in clear", "line 1"), (b"\xff", "UTF-8")]
    )
    def test_users(self, tmp_path: Path, content: str | bytes | None, words: str) -> None:
        """The file of users of PLAIN."""
        path = tmp_path / "users"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        asked = config(
            tmp_path,
            "listeners=SASL_PLAINTEXT://127.0.0.1:0",
            "sasl.enabled.mechanisms=PLAIN",
            f"sasl.plain.users.file={path}",
        )
        line = told(end_after(lambda: secured_listeners(asked)), ExitCode.CONFIGURATION)

        assert f"sasl.plain.users.file of listener SASL_PLAINTEXT, {path}: " in line
        assert words in line

    @pytest.mark.parametrize("server", ["listener", "http"])
    def test_keys_of_tokens(self, tmp_path: Path, server: str) -> None:
        """A file of keys that has none, at a Kafka listener and at the HTTP server."""
        path = tmp_path / "jwks.json"
        path.write_text("{}")
        tokens = (
            f"sasl.oauthbearer.jwks.endpoint.url={path.as_uri()}",
            "sasl.oauthbearer.expected.audience=penstock",
        )
        if server == "http":
            asked = config(tmp_path, *tokens, "http.listen=127.0.0.1:0", "http.auth=bearer")
            line = told(end_after(lambda: http_security(asked)), ExitCode.CONFIGURATION)
        else:
            listener = ("listeners=SASL_PLAINTEXT://127.0.0.1:0", "sasl.enabled.mechanisms=OAUTHBEARER")
            asked = config(tmp_path, *tokens, *listener)
            line = told(end_after(lambda: secured_listeners(asked)), ExitCode.CONFIGURATION)

        name = "http" if server == "http" else "SASL_PLAINTEXT"
        assert f"sasl.oauthbearer.jwks.endpoint.url of listener {name}, {path.as_uri()}: it is no JWKS" in line

    def test_an_audit_log(self, tmp_path: Path) -> None:
        """A directory that is not there is no broken disk."""
        line = told(end_after(lambda: open_audit(config(tmp_path, f"audit.log={NOWHERE}"))), ExitCode.CONFIGURATION)

        assert line.startswith(f"audit.log = {NOWHERE}: cannot be written: No such file or directory; name a file")

    def test_a_secret(self, tmp_path: Path) -> None:
        """A file of a password: its key, its path, the reason."""
        line = told(end_after(lambda: config(tmp_path, f"http.token.file={NOWHERE}")), ExitCode.CONFIGURATION)

        assert line == f"http.token.file = '{NOWHERE}' (--set): cannot be read: No such file or directory"


class TestEtcd:
    def test_away(self) -> None:
        """Nobody answers: who was asked, and that nothing is lost."""
        with _closed_port() as port:
            settings = EtcdSettings(endpoints=[Endpoint("127.0.0.1", port)])
            line = told(end_after(lambda: asyncio.run(_asked(settings))), ExitCode.STORAGE)

        assert f"127.0.0.1:{port} cannot be reached" in line
        assert line.endswith("Bring etcd back, or correct cluster; nothing that was acknowledged is lost")

    def test_a_name_that_is_none(self) -> None:
        """It cannot be reached, as every other that nobody has."""
        settings = EtcdSettings(endpoints=[Endpoint("a..b", 2379)])
        line = told(end_after(lambda: asyncio.run(_asked(settings))), ExitCode.STORAGE)

        assert "a..b:2379 cannot be reached" in line

    @pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
    def test_a_file_that_is_not_there(self, tmp_path: Path, key: str) -> None:
        """Of several files the one that is missing is named."""
        issued = Authority().issue()
        (tmp_path / "own.pem").write_text(issued.key_pem() + issued.pem)
        files = dict.fromkeys(("ca_file", "cert_file", "key_file"), str(tmp_path / "own.pem")) | {key: NOWHERE}
        settings = EtcdSettings(endpoints=[Endpoint("127.0.0.1", 2379)], tls=True, **files)  # type: ignore[arg-type]
        line = told(end_after(lambda: EtcdClient(settings)), ExitCode.CONFIGURATION)

        assert line == (
            f"{NOWHERE}, for etcd, cannot be read: No such file or directory; put it there, or name it rightly"
        )

    def test_a_file_that_holds_none(self, tmp_path: Path) -> None:
        """It is named, with what it lacks."""
        path = tmp_path / "ca.pem"
        path.write_text("nothing")
        settings = EtcdSettings(endpoints=[Endpoint("127.0.0.1", 2379)], tls=True, ca_file=str(path))
        line = told(end_after(lambda: EtcdClient(settings)), ExitCode.CONFIGURATION)

        assert line.startswith(f"{path}, for etcd, cannot be used: it has no certificate (-----BEGIN CERTIFICATE-----)")


async def _asked(settings: EtcdSettings) -> None:
    client = EtcdClient(settings)
    try:
        await client.read(Range(b"k"), WITHIN_S)
    finally:
        await client.close()


@contextlib.contextmanager
def _closed_port() -> Iterator[int]:
    """A port that nobody else gets, and on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


class TestLongTermStorage:
    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        """The key, the place, the reason and the remedy."""
        (tmp_path / "tier2").touch()
        asked = config(tmp_path, f"tier2=file:{tmp_path / 'tier2'}")
        line = told(end_after(lambda: asyncio.run(open_storage(asked))), ExitCode.CONFIGURATION)

        assert line.startswith("tier2 = file:")
        assert str(tmp_path / "tier2") in line

    def test_away(self, tmp_path: Path) -> None:
        """Nobody answers there in the time that the operator gives."""
        with _closed_port() as port:
            keys = ("tier2.access.key=a", "tier2.secret.key=b", "tier2.start.timeout.ms=0")
            asked = config(tmp_path, "tier2=s3://bucket", f"tier2.endpoint=http://127.0.0.1:{port}", *keys)
            line = told(end_after(lambda: asyncio.run(open_storage(asked))), ExitCode.CONFIGURATION)

        assert line.startswith("tier2 = s3://bucket: ")
        assert f"Start the store there, or correct tier2.endpoint, which is http://127.0.0.1:{port}" in line

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (Unavailable("no answer"), ExitCode.STORAGE, "long-term storage: no answer. Mend it and start again"),
            (Denied("403"), ExitCode.CONFIGURATION, "long-term storage: 403. Correct its credentials"),
            (TierUnavailable("no answer"), ExitCode.STORAGE, "no answer. Bring long-term storage back"),
        ],
    )
    def test_later(self, error: Exception, code: ExitCode, words: str) -> None:
        """What fails behind the opening does not say by itself that it is about long-term storage."""
        end = end_of(error)
        assert end is not None
        assert told(end, code).startswith(words)


class TestTheSystem:
    @pytest.mark.parametrize(
        ("number", "code", "remedy"),
        [
            (errno.ENOSPC, ExitCode.STORAGE, "Make room there"),
            (errno.EDQUOT, ExitCode.STORAGE, "Raise the quota"),
            (errno.EIO, ExitCode.STORAGE, "The disk fails"),
            (errno.EROFS, ExitCode.CONFIGURATION, "mount it for writing"),
            (errno.EMFILE, ExitCode.CONFIGURATION, "ulimit -n"),
            (errno.ENOMEM, ExitCode.CONFIGURATION, "give it more"),
        ],
    )
    def test_its_errors(self, number: int, code: ExitCode, remedy: str) -> None:
        """The file, the system's words, and what to do; no number in brackets."""
        end = end_of(OSError(number, os.strerror(number), "/data/store/x"))
        assert end is not None
        line = told(end, code)

        assert line.startswith(f"/data/store/x: {os.strerror(number)}. ")
        assert remedy in line

    def test_memory(self) -> None:
        """Memory that is lacking is told in words, too."""
        end = end_of(MemoryError())
        assert end is not None
        assert told(end, ExitCode.CONFIGURATION).startswith("MemoryError. This process lacks descriptors")


def test_a_record_of_a_later_release() -> None:
    """It may be damage, or a step back to an older release: both are named."""
    end = end_of(UnreadableRecord("group has version 9, this release reads 8"))
    assert end is not None

    assert told(end, ExitCode.CORRUPT) == (
        "group has version 9, this release reads 8. Start the release that wrote it; if none did, restore the data "
        "directory from a backup"
    )


def test_all_mistakes_are_told() -> None:
    """A configuration with several has a line for each."""
    end = end_of(ConfigError(["one", "another"]))
    assert end is not None
    assert end.lines == ("one", "another")


def test_words_of_damage_are_not_used_for_a_lack() -> None:
    """An error of storage that rights have caused is told as that: nothing is broken."""

    def work() -> None:
        try:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/tier2/object")
        except PermissionError as lack:
            raise Unavailable("it is lost") from lack

    line = told(end_after(work), ExitCode.CONFIGURATION)
    assert line.startswith("/data/tier2/object: Permission denied. This process runs as user ")


def test_a_defect_has_no_last_word() -> None:
    """What nobody foresaw keeps its traceback."""
    assert end_of(ValueError("what nobody foresaw")) is None
    assert isinstance(end_of(LongTermUnusable("no such bucket")), End)
