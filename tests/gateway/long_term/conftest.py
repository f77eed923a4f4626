"""The MinIO server of the tests of long-term storage."""

from tests.tier2.conftest import bucket, minio, open_storage, own_minio

__all__ = ["bucket", "minio", "open_storage", "own_minio"]
