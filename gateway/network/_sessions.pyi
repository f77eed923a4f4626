from collections.abc import Callable, Sequence
from ssl import SSLObject
from typing import final

from typing_extensions import Buffer

@final
class Session:
    def unseal(self, room: Buffer, wire: Buffer, at: int, /) -> tuple[int, int, bool, bool, int]: ...
    def seal(self, parts: Sequence[Buffer], /) -> bytes: ...

def wrap(make: Callable[[], SSLObject], /) -> tuple[SSLObject, Session | None]: ...
