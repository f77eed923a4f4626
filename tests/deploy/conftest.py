"""The MinIO server of the tests of long-term storage."""

from tests.tier2.conftest import own_minio

__all__ = ["own_minio"]
