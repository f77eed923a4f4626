"""What is measured on real directories, ports, certificates and a real store."""

from __future__ import annotations

import datetime
import os
import socket
from pathlib import Path
from unittest.mock import ANY

import pytest

from core.cluster import etcd_keys
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.wire import Put, Range
from gateway.cli import doctor_addresses as addresses
from gateway.cli import doctor_cluster as cluster
from gateway.cli import doctor_disk as disk
from gateway.cli import doctor_long_term as long_term
from gateway.cli import doctor_machine as machine
from gateway.cli.doctor_certificates import certificates
from gateway.cli.doctor_examination import wanted_bytes
from gateway.config.loading import load
from gateway.config.model import Config
from gateway.data_directory import DataDirectory
from gateway.disks import processors
from tests.core.cluster.etcd.servers import EtcdServer
from tests.gateway.launching import free_ports
from tests.gateway.security.certificates import Authority, make
from tests.tier2.loops import in_loop
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.s3 import S3Storage
from tier2.storage import Buffer, ObjectStat, Storage


def config_of(*assignments: str, environ: dict[str, str] | None = None) -> Config:
    return load(None, environ or {}, assignments)


class TestDirectory:
    @pytest.mark.parametrize(
        ("containers", "directories", "logs"), [("1", "", 1), ("4", "", 4), ("5", "a,b", 3), ("0", "a,b", 1)]
    )
    def test_each_log_has_spare_files(self, containers: str, directories: str, logs: int) -> None:
        """A directory's logs share its room for records, and each has two files more."""
        sizes = ("log.max.bytes=1073741824", "log.file.bytes=67108864", f"containers={containers}")
        config = config_of(*sizes, *(["data.dir=a", f"data.dirs={directories}"] if directories else []))
        assert wanted_bytes(config) == (1 << 30) // (2 if directories else 1) + logs * 2 * (64 << 20)

    def test_nothing_stays(self, tmp_path: Path) -> None:
        """A directory is measured without a trace in it; what its log takes is counted."""
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "log").write_bytes(b"x" * 100_000)
        tmp_path.chmod(0o750)
        facts = disk.measured(tmp_path, 7)
        assert (facts.exists, facts.usable, facts.mode, facts.wanted_bytes) == (True, True, 0o750, 7)
        assert 100_000 <= facts.log_bytes < 200_000
        assert facts.free_bytes > 0
        assert facts.file_system
        assert 1 <= len(facts.sync_ms) <= disk.SYNCS
        assert [path.name for path in tmp_path.iterdir()] == ["store"]

    def test_missing(self, tmp_path: Path) -> None:
        """One that is not there is measured where it would be made, and is not made."""
        facts = disk.measured(tmp_path / "a" / "b", 0)
        assert (facts.exists, facts.usable) == (False, True)
        assert facts.sync_ms
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        """A file is no directory."""
        (tmp_path / "data").write_text("")
        facts = disk.measured(tmp_path / "data", 0)
        assert not facts.usable
        assert "is no directory" in facts.error

    def test_lock(self, tmp_path: Path) -> None:
        """The owner of a locked directory is named, and keeps it; a free one stays free."""
        data = DataDirectory.acquire(tmp_path / "data", "0.1.0")
        assert disk.locked_by(tmp_path / "data") == f"process {os.getpid()}"
        data.release()
        assert disk.locked_by(tmp_path / "data") == ""
        DataDirectory.acquire(tmp_path / "data", "0.1.0").release()

    def test_memory_file_system(self) -> None:
        """The innermost mount counts."""
        assert disk.file_system_of(Path("/proc/self")) == "proc"


class TestMachine:
    def test_clock(self, tmp_path: Path) -> None:
        """A file of the future is seen."""
        (tmp_path / "f").write_text("")
        os.utime(tmp_path / "f", (4e9, 4e9))
        facts = machine.ClockWatch().facts([tmp_path])
        assert facts.newest_file_s == 4e9
        assert facts.is_monotonic

    def test_limits(self) -> None:
        """Connections are counted as the gateway does it."""
        facts = machine.limits(config_of("max.connections=1"))
        assert (facts.connections, facts.connections_max) == (1, 1)

    def test_memory(self) -> None:
        """All caches count."""
        settings = ("log.cache.bytes=1GiB", "tier2.cache.bytes=1GiB", "log.read.cache.bytes=1GiB")
        assert machine.memory(config_of(*settings)).caches_bytes >= 3 << 30


class TestPorts:
    def test_taken(self) -> None:
        """The owner of a taken port is named; one that is bound to be ours is so only with the lock."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            config = config_of(f"listeners=127.0.0.1:{port}", "http.listen=127.0.0.1:0")
            kafka, http = addresses.ports(config, "")
            ours, _ = addresses.ports(config, f"process {os.getpid()}")
        assert kafka.taken
        assert str(kafka.owner).startswith(f"pid {os.getpid()} ")
        assert (kafka.is_our_gateway, ours.is_our_gateway) == (False, True)
        assert (http.error, http.taken) == ("", False)

    def test_not_ours_to_bind(self) -> None:
        """An address of another machine cannot be bound."""
        (facts,) = addresses.ports(config_of("listeners=192.0.2.1:9092", "http.listen=off"), "")
        assert facts.error
        assert not facts.taken

    def test_of_workers(self, tmp_path: Path) -> None:
        """The ports of all workers are looked at; where their number follows the machine, it follows the store too."""
        first = free_ports(4)
        where = (f"listeners=127.0.0.1:{first}", f"http.listen=127.0.0.1:{first + 1}", f"data.dir={tmp_path}")
        with socket.create_server(("127.0.0.1", first + 3)):
            facts = list(addresses.ports(config_of("workers=3", *where), ""))
        assert [(one.name, one.taken) for one in facts] == [
            ("PLAINTEXT", False),
            ("PLAINTEXT of worker 1", False),
            ("PLAINTEXT of worker 2", True),
            ("HTTP", False),
        ]
        assert addresses.workers_of(config_of("workers=auto", *where)) == processors()
        assert addresses.workers_of(config_of("workers=auto", "containers=1", *where)) == 1
        (tmp_path / "penstock.json").write_text('{"containers": 1, "directories": 1}')
        assert addresses.workers_of(config_of("workers=auto", *where)) == 1

    def test_of_a_cluster(self) -> None:
        """The ports for other nodes are looked at where they are configured, that of HTTP only with HTTP."""
        ports = (f"cluster.{name}=127.0.0.1:0" for name in ("listen", "http.listen", "pulse.listen"))
        settings = ("cluster=etcd://127.0.0.1:1/c", "tier2=s3://b", "listeners=127.0.0.1:0", *ports)
        for http, more in (("off", []), ("127.0.0.1:0", ["HTTP", "HTTP for nodes"])):
            names = {one.name for one in addresses.ports(config_of(*settings, f"http.listen={http}"), "")}
            assert names == {"PLAINTEXT", "for nodes", "pulse", *more}

    def test_advertised(self) -> None:
        """A name that does not resolve is told, one that does is shown with its addresses."""
        config = config_of("listeners=127.0.0.1:9092=localhost,127.0.0.1:9093=nowhere.invalid")
        there, nowhere = addresses.advertised(config, frozenset())
        assert (there.error, there.address) == ("", "localhost:9092")
        assert "127.0.0.1" in there.resolved
        assert "does not resolve" in nowhere.error


class TestCertificates:
    def test_good(self, tmp_path: Path) -> None:
        """The dates of the chain."""
        (found,) = certificates(
            config_of("listeners=SSL://localhost:9093", f"ssl.keystore.location={make(tmp_path).keystore}")
        )
        assert found.error == ""
        assert found.begins_s < datetime.datetime.now(datetime.UTC).timestamp() < found.ends_s

    def test_wrong_key(self, tmp_path: Path) -> None:
        """A key of another certificate."""
        one, other = Authority().issue(), Authority().issue()
        (tmp_path / "k.pem").write_text(one.key_pem() + other.pem)
        (found,) = certificates(
            config_of("listeners=SSL://localhost:9093", f"ssl.keystore.location={tmp_path / 'k.pem'}")
        )
        assert "does not belong" in found.error

    def test_http(self, tmp_path: Path) -> None:
        """The HTTP server's, too; a plain listener has none."""
        (found,) = certificates(config_of(f"http.tls.keystore.location={make(tmp_path).keystore}"))
        assert (found.listener, found.error) == ("HTTP", "")

    def test_of_etcd(self, tmp_path: Path) -> None:
        """The one by which etcd knows this node ends as well; a file that is none is named."""
        authority = Authority()
        (tmp_path / "node.pem").write_text(authority.issue().pem)
        (tmp_path / "none.pem").write_text("none")
        settings = ("cluster=etcds://127.0.0.1:1/c", "tier2=s3://b", f"etcd.key.file={tmp_path}/node.pem")
        (found,) = certificates(config_of(*settings, f"etcd.cert.file={tmp_path}/node.pem"))
        assert (found.listener, found.error) == ("etcd", "")
        assert found.begins_s < datetime.datetime.now(datetime.UTC).timestamp() < found.ends_s
        (found,) = certificates(config_of(*settings, f"etcd.cert.file={tmp_path}/none.pem"))
        assert found.error == f"{tmp_path}/none.pem: it is no certificate"


@pytest.mark.slow
@in_loop
async def test_members_of_etcd(tmp_path: Path) -> None:
    """Each is asked by itself, and nothing is written; a cluster is seen once it is there."""
    server = EtcdServer(tmp_path)
    server.start()
    try:
        config = config_of(f"cluster=etcd://{server.endpoint},127.0.0.1:1/orders", "tier2=s3://b")
        there, away = await cluster.members(config)
        assert (there.address, there.error, there.is_begun) == (str(server.endpoint), "", False)
        assert there.took_ms > 0
        assert "127.0.0.1:1" in away.error
        client = EtcdClient(server.settings())
        try:
            assert (await client.read(Range(b"penstock/", b"penstock0"))).keys == ()
            meta = Put(b"penstock/orders/meta", etcd_keys.Meta("c" * 22, 4).encode())
            assert (await client.decide((), (meta,))).succeeded
        finally:
            await client.close()
        assert (await cluster.members(config))[0].is_begun
    finally:
        server.stop()
    assert await cluster.members(config_of()) == []


class Careless(FilesystemStorage):
    """A store that does not obey conditions, as some that speak S3 do."""

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        return await self.put(key, data, token=token)


async def keys_of(storage: Storage) -> list[str]:
    return [one.key async for one in storage.list("")]


@pytest.mark.slow
class TestMinio:
    def config(self, minio: MinioServer, bucket: str, *more: str, password: str = ROOT_PASSWORD) -> Config:
        settings = (f"tier2=s3://{bucket}/some/prefix", f"tier2.endpoint={minio.endpoint}", *more)
        credentials = {"PENSTOCK_TIER2_ACCESS_KEY": ROOT_USER, "PENSTOCK_TIER2_SECRET_KEY": password}
        return config_of(*settings, environ=credentials)

    @in_loop
    async def test_all_of_it(self, minio: MinioServer, bucket: str, tmp_path: Path) -> None:
        """Every operation works, other keys stay, none of ours does."""
        storage = await S3Storage.open(minio.settings(bucket))
        try:
            await storage.put("some/prefix/doctor/other", b"1")
            facts = await long_term.tried(self.config(minio, bucket, f"data.dir={tmp_path}"))
            assert await keys_of(storage) == ["some/prefix/doctor/other"]
        finally:
            await storage.close()
        assert (facts.kind, facts.failed, facts.winners, facts.left_behind) == ("tried", {}, 1, "")
        assert facts.latency_ms == dict.fromkeys(
            ("owner", "put", "get", "range", "list", "conditional put", "delete"), ANY
        )

    @in_loop
    async def test_no_bucket(self, minio: MinioServer, bucket: str, tmp_path: Path) -> None:
        """A bucket that is not there yet is not made."""
        config = self.config(minio, bucket, f"data.dir={tmp_path}")
        assert (await long_term.tried(config)).kind == "absent"
        assert (await long_term.tried(config)).kind == "absent"

    @in_loop
    async def test_wrong_secret(self, minio: MinioServer, bucket: str, tmp_path: Path) -> None:
        """Refused credentials are named by their place, and not shown."""
        facts = await long_term.tried(self.config(minio, bucket, f"data.dir={tmp_path}", password="wrong-secret-1234"))
        assert facts.kind == "unusable"
        assert "tier2.access.key" in facts.error
        assert "wrong-secret-1234" not in facts.error

    @in_loop
    async def test_nobody_there(self, tmp_path: Path, bucket: str, own_minio: MinioServer) -> None:
        """A store that does not run is told within seconds."""
        own_minio.kill()
        config = self.config(own_minio, bucket, f"data.dir={tmp_path}", "tier2.start.timeout.ms=100")
        assert (await long_term.tried(config)).kind == "unusable"


class TestDirectoryAsStorage:
    @in_loop
    async def test_own_directory(self, tmp_path: Path) -> None:
        """The default place, before the first start and after it."""
        config = config_of(f"data.dir={tmp_path}")
        assert (await long_term.tried(config)).kind == "absent"
        (tmp_path / "tier2").mkdir()
        facts = await long_term.tried(config)
        assert (facts.kind, facts.failed, facts.winners) == ("tried", {}, 1)
        assert [path for path in (tmp_path / "tier2").rglob("*") if path.is_file()] == []

    @in_loop
    async def test_off(self) -> None:
        """No storage, no try."""
        assert (await long_term.tried(config_of("tier2=off"))).kind == "off"

    @in_loop
    async def test_careless_store(self, tmp_path: Path) -> None:
        """A store that lets more than one conditional put win is found out."""
        storage = await Careless.open(FilesystemSettings(directory=tmp_path))
        try:
            facts = await long_term.Trial(storage, "here").run()
            assert await keys_of(storage) == []
        finally:
            await storage.close()
        assert facts.winners > 1
