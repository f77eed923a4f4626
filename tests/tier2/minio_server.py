"""A real MinIO server for tests: one process, one temporary directory, a port of the system's choice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from tier2.s3_settings import S3Settings

ROOT_USER = "penstock"
ROOT_PASSWORD = "penstock-secret-7f3a"
START_TIMEOUT_S = 90.0

REPOSITORY = Path(__file__).resolve().parents[2]


def minio_program() -> str:
    """The path of MinIO; fails rather than skips, as no suite is left out for want of a tool."""
    found = subprocess.run(
        [REPOSITORY / "scripts/install-minio", "--find"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, "there is no MinIO server here: run scripts/install-minio"
    return found.stdout.strip()


class MinioServer:
    """Starts, kills, pauses; the port stays the same over a restart."""

    def __init__(self, directory: Path, *, tls: bool = False, kms_key: str = "") -> None:
        self._program = minio_program()
        self._directory = directory
        self._kms_key = kms_key  # NAME:BASE64 of the one key that it encrypts with
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._certificates = directory / "certificates"
        self._certificates.mkdir()
        self.ca_file = _certify(self._certificates) if tls else None
        self._process: subprocess.Popen[bytes] | None = None

    def certify(self) -> None:
        """Another certificate, for the next start."""
        _certify(self._certificates)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://127.0.0.1:{self.port}"

    def settings(self, bucket: str, **changes: object) -> S3Settings:
        values: dict[str, object] = {
            "endpoint": self.endpoint,
            "bucket": bucket,
            "prefix": "a/prefix",
            "ca_file": self.ca_file,
            "access_key": ROOT_USER,
            "secret_key": ROOT_PASSWORD,
            **changes,
        }
        return S3Settings(**values)  # type: ignore[arg-type]

    def start(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._directory),
            "MINIO_ROOT_USER": ROOT_USER,
            "MINIO_ROOT_PASSWORD": ROOT_PASSWORD,
            "MINIO_SITE_REGION": "us-east-1",
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_PROMETHEUS_AUTH_TYPE": "public",  # the benches count its requests
            "GOMAXPROCS": "2",
        }
        if self._kms_key:
            environment["MINIO_KMS_SECRET_KEY"] = self._kms_key
        data = self._directory / "data"
        data.mkdir(exist_ok=True)
        address = f"127.0.0.1:{self.port}"
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "server", "--quiet", "--address", address, "--certs-dir", self._certificates, data],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        http = PoolManager(retries=False, timeout=2, ca_certs=self.ca_file)
        # Its health checks, and its owner, are answered before it has read its users: so a stranger asks.
        client = Minio(
            f"127.0.0.1:{self.port}", "stranger", "none-at-all", secure=self.ca_file is not None, http_client=http
        )
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, (self._directory / "log").read_text()
            try:
                client.list_buckets()
            except S3Error as error:
                if error.code == "InvalidAccessKeyId":
                    return
            except (HTTPError, MinioException):
                pass
            time.sleep(0.05)
        raise AssertionError("MinIO is not up: " + (self._directory / "log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """Return once it stands still: a signal takes a moment to reach every thread."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + START_TIMEOUT_S
        tasks = Path(f"/proc/{self._process.pid}/task")
        while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
            assert time.monotonic() < deadline, "MinIO does not stand still"
            time.sleep(0.005)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _certify(directory: Path) -> str:
    """A key and a certificate for 127.0.0.1 that vouches for itself, where MinIO looks for them."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=penstock-test -addext subjectAltName=IP:127.0.0.1 -keyout private.key -out public.crt"
    )
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return str(directory / "public.crt")
