"""The MinIO server of the doctor's tests."""

from tests.tier2.conftest import bucket, minio, own_minio

__all__ = ["bucket", "minio", "own_minio"]
