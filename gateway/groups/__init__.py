"""Consumer groups: the classic protocol and committed offsets."""

from gateway.groups.coordinator import GroupCoordinator

__all__ = ["GroupCoordinator"]
