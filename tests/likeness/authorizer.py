"""Random sets of ACLs and questions to them, and what Kafka's StandardAuthorizer answers.

`python -m tests.likeness.authorizer` asks it again and writes `authorizer.json`: the seed, and for each case a bit for
each question and the number of ACLs that each filter chooses.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from compat_tests.harness.system import JARS, JVM_FLAGS
from gateway.security.acls import Operation, PatternType, Permission, ResourceType

HERE: Final = Path(__file__).parent
ANSWERS: Final = HERE / "authorizer.json"
SEED: Final = 20_261_129
CASES: Final = 400
ASKED_SECONDS_MAX: Final = 300

# Few letters, so that names begin one another; "hardcode" is the name that Kafka asks about for all others. No name
# has a character below "*": on such names, which groups may have, Kafka's own search can go on for ever.
NAMES: Final = ("a", "ab", "abc", "abcd", "abd", "b", "ba", "bab", "*", "*a", "ä", "hardcode", "hard", "kafka-cluster")
# Kafka forgets ACLs of "*", even denials, for a name that begins with an asterisk; Penstock does not.
RESOURCES: Final = tuple(name for name in NAMES if name != "*a")
USERS: Final = ("User:alice", "User:bob", "User:*", "User:ANONYMOUS", "Group:alice", "User:a:b", "user:alice", "User:")
ASKERS: Final = tuple(user for user in USERS if user != "User:*")  # Kafka fails on a user of that name
HOSTS: Final = ("127.0.0.1", "10.0.0.7", "*")
TYPES: Final = tuple(kind for kind in ResourceType if kind is not ResourceType.ANY)
OPERATIONS: Final = tuple(operation for operation in Operation if operation is not Operation.ANY)
ASKED: Final = tuple(operation for operation in OPERATIONS if operation is not Operation.ALL)
SUPER_USERS: Final = ("", "User:bob", "User:root;User:a:b", " User:bob ; Group:alice ")

Case = dict[str, Any]


def cases(seed: int, count: int) -> Iterator[Case]:
    """Cases of a seed, always the same ones; half of them about one type of resource, where rules meet."""
    chance = random.Random(seed)
    for _ in range(count):
        types = TYPES if chance.randrange(2) else (chance.choice(TYPES),)
        operations = OPERATIONS if chance.randrange(2) else tuple(chance.choices(OPERATIONS, k=3))
        names = tuple(chance.choices(NAMES, k=chance.randint(1, len(NAMES))))
        acls = {_acl(chance, types, operations, names) for _ in range(chance.choice((0, 1, 3, 8, 30)))}
        yield {
            "super_users": chance.choice(SUPER_USERS),
            "open": chance.random() < 0.3,
            "acls": [list(acl) for acl in sorted(acls)],
            "asked": [_asked(chance, types) for _ in range(24)],
            "filters": [_filter(chance, sorted(acls)) for _ in range(4)],
        }


def _acl(
    chance: random.Random, types: tuple[int, ...], operations: tuple[int, ...], names: tuple[str, ...]
) -> tuple[Any, ...]:
    return (
        int(chance.choice(types)),
        chance.choice(names),
        int(chance.choice((PatternType.LITERAL, PatternType.PREFIXED))),
        chance.choice(USERS),
        chance.choice(HOSTS),
        int(chance.choice(operations)),
        int(chance.choice((Permission.ALLOW, Permission.ALLOW, Permission.DENY))),
    )


def _asked(chance: random.Random, types: tuple[int, ...]) -> list[Any]:
    """Type and name of a principal, its address, an operation, type and name of a resource; without one, any."""
    kind, name = chance.choice(ASKERS).split(":", 1)
    asks_for_any = not chance.randrange(6)
    return [
        kind,
        name,
        chance.choice(HOSTS[:2]),
        int(chance.choice(ASKED)),
        int(chance.choice(types)),
        None if asks_for_any else chance.choice(RESOURCES),
    ]


def _filter(chance: random.Random, acls: list[tuple[Any, ...]]) -> list[Any]:
    """A filter made of an ACL that is there, if there is one: parts of it are left open."""
    like = chance.choice(acls) if acls else (2, "a", 3, "User:alice", "*", 3, 3)
    parts = [chance.choice((part, 1 if isinstance(part, int) else None)) for part in like]
    parts[2] = int(chance.choice(tuple(PatternType)))
    if chance.randrange(3) == 0:
        parts[1] = chance.choice(NAMES)
    return parts


def asked(some: list[Case]) -> list[dict[str, Any]]:
    """The answers of Kafka's own class."""
    command = ["java", *JVM_FLAGS, "-cp", str(JARS / "*"), str(HERE / "Authorizer.java")]
    given = "".join(json.dumps(case) + "\n" for case in some)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=ASKED_SECONDS_MAX)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def short(answer: dict[str, Any]) -> list[Any]:
    """An answer as `authorizer.json` has it."""
    return ["".join("1" if allowed else "0" for allowed in answer["asked"]), [len(some) for some in answer["filters"]]]


def main() -> None:
    answers = asked(list(cases(SEED, CASES)))
    lines = ",\n".join(f"  {json.dumps(short(answer))}" for answer in answers)
    ANSWERS.write_text(f'{{\n "seed": {SEED},\n "answers": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
