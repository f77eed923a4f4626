"""The `minio` package, made fit for us: one request a call, in the calling thread, with typed errors.

Invariants, which the package leaves to us:
- Pool and time-outs are `tier2.http_pool`'s: a request is sent once, and the caller decides on another try.
- `put_if_absent` is a PUT with ``If-None-Match: *``, which the package's public calls cannot express.
- A part of an upload, or a conditional put, is not hashed where the server checks its CRC-32C (`tier2.s3_checksums`).
- A range is read inside the call, checked for its length, and cut short when its caller has given up.
- Keys that the server refuses are read again (`tier2.rotating_keys`), and the time that it goes by is taken for signing
  (`tier2.server_time`); the caller then sends the request again.
- Every exception of the package and of urllib3 becomes a StorageError; credentials are in no message and no repr.

This is the only module that knows the package; its private calls are used in `S3Client` and `_Minio` only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar, cast
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError, fromstring

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider
from minio.datatypes import CompleteMultipartUploadResult
from minio.datatypes import Part as ListedPart
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.helpers import DictType, ObjectWriteResult
from minio.time import to_amz_date
from minio.xml import findtext
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, SSLError, TimeoutError

from tier2 import bucket_remarks, s3_checksums, s3_errors
from tier2.http_pool import pool_manager, receive
from tier2.memory import uninitialized
from tier2.parts import OpenUpload, Part, SentPart
from tier2.pool import Deadline
from tier2.rotating_keys import Keys, RotatingKeys
from tier2.s3_encryption import headers_of
from tier2.s3_settings import S3Settings
from tier2.server_time import ServerTime
from tier2.storage import (
    BucketNotFound,
    Buffer,
    Came,
    Corrupt,
    Denied,
    Misconfigured,
    ObjectStat,
    StorageError,
    TimedOut,
    Unavailable,
)

T = TypeVar("T")

UPLOAD_PAGES_MAX: Final = 10
"""Pages of unfinished uploads that one sweep reads; the next sweep takes the rest."""
_UNHASHED: Final = "unhashed"
"""Among the headers of a request: the server checks the body's CRC-32C, so it needs no other hash. It is not sent."""
TOKEN_HEADER: Final = "x-amz-meta-penstock-put"


class S3Client:
    """One bucket. Names are whole keys, with the prefix."""

    def __init__(self, settings: S3Settings) -> None:
        url = urlsplit(settings.endpoint)
        self._bucket = settings.bucket
        self._may_create = settings.create_bucket
        self._may_delete_many = True  # until the server refuses to
        self._may_check = True  # parts' checksums, until the server refuses to
        self._may_check_puts = True  # the same of objects that are put at once
        self._checks_puts = False  # the server has told the CRC-32C of a whole object that it was sent
        self._encrypted: DictType = {**headers_of(settings.encryption, settings.kms_key_id)}
        self._endpoint = f"{url.scheme}://{url.netloc}"
        self.place = f"bucket {settings.bucket!r} at {self._endpoint}"
        self._http = pool_manager(
            connections=settings.reads + settings.writes * (1 + settings.parts_at_once),
            connect_timeout_s=settings.connect_timeout_s,
            io_timeout_s=settings.io_timeout_s,
            ca_file=settings.ca_file,
        )
        first = Keys(
            access_key=settings.access_key, secret_key=settings.secret_key, session_token=settings.session_token
        )
        self._keys = RotatingKeys(first, settings.read_keys)
        try:
            self._minio = _Minio(
                url.netloc,
                credentials=_KeyProvider(self._keys) if first.access_key else None,
                secure=url.scheme == "https",
                region=settings.region,
                http_client=self._http,
            )
            self._minio.server_time = self._time = ServerTime()
            self._minio._base_url.virtual_style_flag = False
        except ValueError as error:
            raise Misconfigured(f"{self.place}: {error}") from error

    def close(self) -> None:
        self._http.clear()

    # --- Bucket -------------------------------------------------------------------------------

    def ensure_bucket(self, prefix: str) -> None:
        """Ask for a listing, as only its refusal has a reason; create a missing bucket, if that is wanted."""
        try:
            try:
                next(self.list(prefix, ""), None)
            except S3Error as error:
                if not self._goes_by_another_time(error):
                    raise
                next(self.list(prefix, ""), None)
        except S3Error as error:
            if error.code != "NoSuchBucket" or not self._may_create:
                raise
            self._create_bucket()

    def _create_bucket(self) -> None:
        try:
            self._minio.make_bucket(self._bucket)
        except S3Error as error:
            if error.code == "BucketAlreadyOwnedByYou":  # another process was faster
                return
            refused = self._storage_error(error, "")
            if isinstance(refused, Denied):
                raise Misconfigured(
                    f"{self.place}: the bucket does not exist, and the credentials may not create it ({error.code})"
                ) from error
            raise refused from error

    def remarks(self, prefix: str) -> list[str]:
        """Remarks about the bucket for an operator; none without permission to ask. Blocks."""
        found = [self._retention(), self._versions(prefix)]
        return [f"{self.place}: {remark}" for remark in found if remark is not None]

    def _retention(self) -> str | None:
        with contextlib.suppress(S3Error, ValueError):
            lock = self._minio.get_object_lock_config(self._bucket)
            if lock.mode:
                return bucket_remarks.of_lock(lock.mode, int(lock.duration or 0), str(lock.duration_unit))
        return None

    def _versions(self, prefix: str) -> str | None:
        with contextlib.suppress(S3Error, ValueError):
            if self._minio.get_bucket_versioning(self._bucket).status == ENABLED:
                return bucket_remarks.of_versions(prefix, self._expiring())
        return None

    def _expiring(self) -> list[str]:
        with contextlib.suppress(S3Error, ValueError):
            lifecycle = self._minio.get_bucket_lifecycle(self._bucket)
            rules = lifecycle.rules if lifecycle is not None else []
            expiring = [rule for rule in rules if rule.status == ENABLED and rule.noncurrent_version_expiration]
            return [(rule.rule_filter.prefix if rule.rule_filter else None) or "" for rule in expiring]
        return []

    # --- Objects ------------------------------------------------------------------------------

    def put(self, name: str, data: Buffer, token: str) -> ObjectStat:
        return _stat_of(
            self._minio._put_object(self._bucket, name, bytes(data), self._made_with(token)), len(data), token
        )

    def put_if_absent(self, name: str, data: Buffer, token: str) -> ObjectStat:
        """The conditional PUT: the header is signed with the rest, and the server refuses a second one with 412."""
        headers: DictType = {"If-None-Match": "*", **self._made_with(token)}
        if self._may_check_puts:
            crc = s3_checksums.checksum((data,))
            asking: DictType = {s3_checksums.CRC_HEADER: crc, **({_UNHASHED: ""} if self._checks_puts else {})}
            try:
                result = self._minio._put_object(self._bucket, name, bytes(data), headers | asking)
            except S3Error as error:
                if error.response.status not in (400, 501) or error.code in s3_checksums.DIFFERS:
                    raise
                self._may_check_puts = False
            else:
                self._checks_puts = result.http_headers.get(s3_checksums.CRC_HEADER) == crc
                return _stat_of(result, len(data), token)
        return _stat_of(self._minio._put_object(self._bucket, name, bytes(data), headers), len(data), token)

    def _made_with(self, token: str) -> DictType:
        """Headers of each request that makes an object."""
        return {**self._encrypted, **_token_header(token)}

    def get_range(self, name: str, key: str, start: int, length: int, deadline: Deadline) -> bytes:
        with self._range(name, key, start, length, deadline) as response:
            data = response.read()
            if len(data) != length:
                raise self._cut_off(key, len(data), length, deadline)
            return data

    def get_pieces(
        self, name: str, key: str, start: int, length: int, piece_bytes: int, came: Came, deadline: Deadline
    ) -> None:
        with self._range(name, key, start, length, deadline) as response:
            for number, at in enumerate(range(0, length, piece_bytes)):
                piece = uninitialized(None, min(piece_bytes, length - at))
                got = receive(response, memoryview(piece))
                if got != len(piece):
                    raise self._cut_off(key, at + got, length, deadline)
                came(number, piece)

    @contextlib.contextmanager
    def _range(
        self, name: str, key: str, start: int, length: int, deadline: Deadline
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer with that range as its body; the connection is reused if the body is read to its end."""
        response = self._minio.get_object(self._bucket, name, offset=start, length=length)
        deadline.interrupt_with(lambda: _cut_short(response))
        is_read = False
        try:
            total = response.headers.get("content-range", "").rpartition("/")[2]
            if response.status != 206 or not total.isdigit():
                raise Misconfigured(f"{self.place}: a part of {key!r} was asked for, but the endpoint sends all of it")
            if int(total) < start + length:
                raise Corrupt(key, int(total), f"ends here, but bytes up to {start + length} were expected")
            yield response
            is_read = response.closed
        finally:
            deadline.interrupt_with(None)
            if not is_read:
                response.close()  # the rest is not worth reading
            response.release_conn()

    def _cut_off(self, key: str, came: int, length: int, deadline: Deadline) -> Unavailable:
        deadline.check()
        return Unavailable(f"{self.place}: {came} bytes of {key!r} came, {length} were asked for")

    def list(self, prefix: str, after: str) -> Iterator[tuple[str, int, int]]:
        found = self._minio.list_objects(self._bucket, prefix, recursive=True, start_after=after or None)
        while True:
            with self._parsing():
                info = next(found, None)
            if info is None:
                return
            modified = int(info.last_modified.timestamp() * 1000) if info.last_modified else 0
            yield str(info.object_name), info.size or 0, modified

    def delete(self, name: str) -> None:
        try:
            self._minio.remove_object(self._bucket, name)
        except S3Error as error:  # for a missing object S3 answers 204, some other servers 404
            if error.code != "NoSuchKey":
                raise

    def delete_many(self, names: Sequence[str], deadline: Deadline) -> None:
        """All in one request; those that the server refuses in it, or all if it knows no such request, one by one."""
        left = list(names)
        if self._may_delete_many:
            try:
                with self._parsing():
                    wanted = [DeleteObject(name) for name in names]
                    left = [error.name for error in self._minio.remove_objects(self._bucket, wanted) if error.name]
            except S3Error as error:
                if error.response.status not in (400, 405, 501):
                    raise
                self._may_delete_many = False
        for name in left:
            deadline.check()
            self.delete(name)

    def stat(self, name: str) -> ObjectStat | None:
        try:
            found = self._minio.stat_object(self._bucket, name)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            # An answer to HEAD has no body: 404 may as well mean that the bucket is gone.
            if not self._minio.bucket_exists(self._bucket):
                raise BucketNotFound(f"{self.place}: the bucket does not exist") from error
            return None
        modified = int(found.last_modified.timestamp() * 1000) if found.last_modified else 0
        token = (found.metadata or {}).get(TOKEN_HEADER, "")
        return ObjectStat(size=found.size or 0, etag=found.etag or "", modified_ms=modified, token=token)

    # --- Uploads in parts ---------------------------------------------------------------------

    def begin_upload(self, name: str, token: str) -> OpenUpload:
        """Begin an upload. A server without checksums may ignore the request for them, or refuse it."""
        if self._may_check:
            try:
                return self._begin_upload(name, {s3_checksums.ALGORITHM_HEADER: s3_checksums.ALGORITHM}, token)
            except S3Error as error:
                if error.response.status not in (400, 501):
                    raise
        upload = self._begin_upload(name, {}, token)
        self._may_check = False
        return upload

    def _begin_upload(self, name: str, asking: DictType, token: str) -> OpenUpload:
        headers: DictType = {"Content-Type": "application/octet-stream", **asking, **self._made_with(token)}
        with self._parsing():
            answer = self._minio._execute("POST", self._bucket, name, headers=headers, query_params={"uploads": ""})
            upload_id = findtext(fromstring(answer.data.decode()), "UploadId", True)
        return OpenUpload(str(upload_id), s3_checksums.is_checked(answer.headers))

    def upload_part(self, name: str, part: Part, upload: OpenUpload, number: int) -> SentPart:
        if upload.is_checked:
            crc = s3_checksums.checksum(part)
            headers: DictType = {s3_checksums.CRC_HEADER: crc, _UNHASHED: ""}
            # The package declares bytes, and passes the part on to urllib3 as it is.
            etag = self._minio._upload_part(self._bucket, name, cast("bytes", part), headers, upload.id, number)
            return SentPart(number, etag, len(part), crc)
        etag = self._minio._upload_part(self._bucket, name, bytes(part), None, upload.id, number)
        return SentPart(number, etag, len(part), "")

    def complete_upload(self, name: str, upload: OpenUpload, parts: Sequence[SentPart], token: str) -> ObjectStat:
        if upload.is_checked:
            body = s3_checksums.completion((part.number, part.etag, part.crc) for part in parts)
            query: DictType = {"uploadId": upload.id}
            result = CompleteMultipartUploadResult(
                self._minio._execute("POST", self._bucket, name, body=body, query_params=query)
            )
        else:
            listed = [ListedPart(part.number, part.etag) for part in parts]
            result = self._minio._complete_multipart_upload(self._bucket, name, upload.id, listed)
        if not result.etag:  # S3 may answer 200 first, and fail then
            raise Unavailable(f"{self.place}: the upload of {name!r} failed when it was completed")
        size = sum(part.size for part in parts)
        return ObjectStat(size=size, etag=result.etag, modified_ms=time.time_ns() // 1_000_000, token=token)

    def abort_upload(self, name: str, upload_id: str) -> None:
        try:
            self._minio._abort_multipart_upload(self._bucket, name, upload_id)
        except S3Error as error:
            if error.code != "NoSuchUpload":  # another call has aborted it, or it is complete
                raise

    def sweep_uploads(self, prefix: str, before: float, deadline: Deadline) -> int:
        """MinIO lists uploads of one exact key or of the whole bucket only, so the prefix is applied here."""
        count, marker = 0, None
        for _ in range(UPLOAD_PAGES_MAX):
            with self._parsing():
                page = self._minio._list_multipart_uploads(self._bucket, key_marker=marker)
            for upload in page.uploads:
                deadline.check()
                name, begun = upload.object_name, upload.initiated_time
                if name.startswith(prefix) and begun is not None and begun.timestamp() <= before:
                    self.abort_upload(name, str(upload.upload_id))
                    count += 1
            marker = page.next_key_marker
            if not page.is_truncated or not marker:
                break
        return count

    # --- Errors -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _parsing(self) -> Iterator[None]:
        """Translate the package's bare ValueError for XML that is no answer of S3's."""
        try:
            yield
        except ValueError as error:
            why = "its answer is not S3's; is the endpoint right?"
            raise Misconfigured(f"{self.place}: {why}") from error

    def translated(self, key: str, call: Callable[[Deadline], T]) -> Callable[[Deadline], T]:
        """The same call, raising StorageError only: Unavailable if there are newer keys than the refused ones now, or
        the time is known now that the server goes by."""

        def translated(deadline: Deadline) -> T:
            used = self._keys.current
            try:
                return call(deadline)
            except (MinioException, HTTPError, OSError, ParseError, UnicodeDecodeError) as error:
                deadline.check()
                known = self._storage_error(error, key)
                if isinstance(known, Denied) and self._keys.are_newer_than(used):
                    raise Unavailable(f"{known}; there are other credentials now") from error
                if isinstance(known, Denied) and isinstance(error, S3Error) and self._goes_by_another_time(error):
                    raise Unavailable(f"{known}; requests are signed with its time from now on") from error
                raise known from error

        return translated

    def _goes_by_another_time(self, refusal: S3Error) -> bool:
        return self._time.differs(refusal.response.headers.get("Date"), datetime.now(UTC))

    def _storage_error(self, error: Exception, key: str) -> StorageError:
        match error:
            case S3Error():
                status = error.response.status
                return s3_errors.storage_error(self.place, key, status, error.code or "", error.message or "")
            case InvalidResponseError():
                return s3_errors.foreign_answer(self.place, error._code, error._body or "")
            case ServerError():
                return s3_errors.foreign_answer(self.place, error.status_code, "")
            case NameResolutionError():
                return Unavailable(f"{self.place}: the host's name is not known")
            case NewConnectionError():
                return Unavailable(f"{self.place}: no connection ({error.__cause__ or error})")
            case SSLError():
                return Misconfigured(f"{self.place}: no TLS connection ({error})")
            case TimeoutError():
                return TimedOut(f"{self.place}: no answer in time ({type(error).__name__})")
            case _:
                return Unavailable(f"{self.place}: {type(error).__name__}: {error}")


class _KeyProvider(Provider):
    """Asked by the package for each request."""

    def __init__(self, keys: RotatingKeys) -> None:
        self._keys = keys

    def retrieve(self) -> Credentials:
        keys = self._keys.current
        return Credentials(keys.access_key, keys.secret_key, keys.session_token)


class _Minio(Minio):
    """Signs with the server's time, and a body that has a CRC-32C without hashing it: the signature covers the
    checksum's header."""

    server_time: ServerTime

    def _build_headers(
        self,
        host: str,
        headers: DictType | None = None,
        body: bytes | None = None,
        creds: Credentials | None = None,
    ) -> tuple[DictType, datetime]:
        if headers is None or body is None or _UNHASHED not in headers:
            built, date = super()._build_headers(host, headers, body, creds)
        else:
            headers = {name: value for name, value in headers.items() if name != _UNHASHED}
            headers["Content-Length"] = str(len(body))
            built, date = super()._build_headers(host, headers, None, creds)
            if creds is not None:
                built["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
        date = self.server_time.of(date)
        built["x-amz-date"] = to_amz_date(date)
        return built, date


def _token_header(token: str) -> DictType:
    return {TOKEN_HEADER: token} if token else {}


def _stat_of(result: ObjectWriteResult, size: int, token: str) -> ObjectStat:
    return ObjectStat(size=size, etag=result.etag or "", modified_ms=time.time_ns() // 1_000_000, token=token)


def _cut_short(response: urllib3.BaseHTTPResponse) -> None:
    """End a read that runs in another thread."""
    with contextlib.suppress(Exception):
        response.shutdown()
