from collections.abc import Callable

from typing_extensions import Buffer

def drain(read: Callable[[int, memoryview], int], room: Buffer, wire: Buffer, /) -> tuple[int, Exception | None]: ...
