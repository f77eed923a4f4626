"""Access control lists as Kafka has them, and the decision that its StandardAuthorizer makes with them. Pure.

Keeps: `AclSet.decide` answers as Kafka 4.3.1's `StandardAuthorizerData` for every set of ACLs, in whatever order they
came; tests/likeness/authorizer.json has its answers. The order of the rules: a deny that matches, an allow that
matches, then, if no ACL at all is about the resource, the default; else a denial.

An ACL matches a resource of its type if it is literal and has the resource's name or `*`, or is prefixed and its name
begins the resource's. It matches an operation that is its own; ALL matches each. Only an allow implies more: READ,
WRITE, DELETE and ALTER imply DESCRIBE; ALTER_CONFIGS implies DESCRIBE_CONFIGS.
"""

from __future__ import annotations

import enum
import ipaddress
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.security.principal import Principal

WILDCARD: Final = "*"
"""Any resource, any host; as a user, any principal."""
ANY_USER: Final = "User:*"
CLUSTER_NAME: Final = "kafka-cluster"
"""The name of the only resource of type CLUSTER."""


class ResourceType(enum.IntEnum):
    """Kafka's `ResourceType` of ACLs, which is not the one of configs."""

    ANY = 1
    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5
    DELEGATION_TOKEN = 6
    USER = 7

    __hash__ = int.__hash__  # natively: an enum's own takes as long as the rest of a decision that is remembered


class PatternType(enum.IntEnum):
    """How an ACL's name means resources; the first two are for filters only."""

    ANY = 1
    MATCH = 2
    LITERAL = 3
    PREFIXED = 4


class Operation(enum.IntEnum):
    """Kafka's `AclOperation`; ANY is for filters only."""

    ANY = 1
    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12
    CREATE_TOKENS = 13
    DESCRIBE_TOKENS = 14
    TWO_PHASE_COMMIT = 15

    __hash__ = int.__hash__


class Permission(enum.IntEnum):
    """Kafka's `AclPermissionType`; ANY is for filters only."""

    ANY = 1
    DENY = 2
    ALLOW = 3


OPERATIONS_OF: Final[Mapping[ResourceType, tuple[Operation, ...]]] = {
    ResourceType.TOPIC: (
        Operation.READ,
        Operation.WRITE,
        Operation.CREATE,
        Operation.DELETE,
        Operation.ALTER,
        Operation.DESCRIBE,
        Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS,
    ),
    ResourceType.GROUP: (
        Operation.READ,
        Operation.DELETE,
        Operation.DESCRIBE,
        Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS,
    ),
    ResourceType.CLUSTER: (
        Operation.CREATE,
        Operation.ALTER,
        Operation.DESCRIBE,
        Operation.CLUSTER_ACTION,
        Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS,
        Operation.IDEMPOTENT_WRITE,
    ),
}
"""The operations that `authorized_operations` tells of a resource."""

IMPLIED_BY: Final[Mapping[Operation, frozenset[Operation]]] = {
    Operation.DESCRIBE: frozenset((Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER)),
    Operation.DESCRIBE_CONFIGS: frozenset((Operation.ALTER_CONFIGS,)),
}
"""By operation: those whose permission gives it too."""

SAMPLE_NAME: Final = "hardcode"
"""Kafka's name of a resource that stands for all others when it asks about a whole type."""


class Acl(NamedTuple):
    """One ACL: a permission or a denial. `principal` is text such as `User:alice`; `host` an address or `*`."""

    type: ResourceType
    name: str
    pattern: PatternType
    principal: str
    host: str
    operation: Operation
    permission: Permission


class AclFilter(NamedTuple):
    """Chooses ACLs; None is any name, principal or host."""

    type: int
    name: str | None
    pattern: int
    principal: str | None
    host: str | None
    operation: int
    permission: int

    def matches(self, acl: Acl) -> bool:
        """As Kafka's `AclBindingFilter`: MATCH is for ACLs that are about a resource of that name."""
        return (
            self.type in (ResourceType.ANY, acl.type)
            and self.pattern in (PatternType.ANY, PatternType.MATCH, acl.pattern)
            and (self.name is None or self._names(self.name, acl))
            and self.principal in (None, acl.principal)
            and self.host in (None, acl.host)
            and self.operation in (Operation.ANY, acl.operation)
            and self.permission in (Permission.ANY, acl.permission)
        )

    def exact(self) -> Acl | None:
        """The only ACL that this can choose, if it names each part of it."""
        if self.name is None or self.principal is None or self.host is None:
            return None
        numbers = (self.type, self.pattern, self.operation, self.permission)
        if ResourceType.ANY in numbers or self.pattern == PatternType.MATCH:  # each enum's ANY is 1
            return None
        return Acl(
            ResourceType(self.type),
            self.name,
            PatternType(self.pattern),
            self.principal,
            self.host,
            Operation(self.operation),
            Permission(self.permission),
        )

    def _names(self, name: str, acl: Acl) -> bool:
        if self.pattern != PatternType.MATCH:
            return name == acl.name
        if acl.pattern is PatternType.LITERAL:
            return acl.name in (name, WILDCARD)
        return name.startswith(acl.name)


@lru_cache(4_096)
def address_of(host: str) -> str:
    """One text for each address: Java writes ::1 as 0:0:0:0:0:0:0:1, and an IPv4 address in IPv6 as IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


class Verdict(enum.Enum):
    """The outcome of a decision, and its reason: Kafka's rules by name."""

    DENIED = enum.auto()
    ALLOWED = enum.auto()
    NO_ACL = enum.auto()
    """No ACL is about the resource: the default decides."""
    NOT_ALLOWED = enum.auto()
    """ACLs are about the resource, and none allows it."""


class _Rule(NamedTuple):
    """What a decision needs of an ACL."""

    principal: str
    host: str
    operation: Operation
    denies: bool

    def matches(self, who: str, host: str, operation: Operation) -> bool:
        if self.principal not in (who, ANY_USER) or self.host not in (WILDCARD, host):
            return False
        own = self.operation
        if own in (Operation.ALL, operation):
            return True
        return not self.denies and own in IMPLIED_BY.get(operation, ())


class _TypeAcls:
    """The ACLs of one resource type, as a decision finds them.

    Prefixes are sorted. Each knows its parent: the longest other prefix that begins it. All prefixes of a name are on
    one path: from the last one that is not behind the name in order, up its parents. Between the longest prefix of a
    name and the name itself, in order, there is nothing but what that prefix begins.
    """

    def __init__(self) -> None:
        self.literal: dict[str, list[_Rule]] = {}
        self.prefixed: dict[str, list[_Rule]] = {}
        self._sorted: list[str] = []
        self._parents: list[int] | None = None  # made at the next use after a change

    def add(self, acl: Acl) -> None:
        rules = self.literal if acl.pattern is PatternType.LITERAL else self.prefixed
        if rules is self.prefixed and acl.name not in rules:
            self._sorted.insert(bisect_left(self._sorted, acl.name), acl.name)
            self._parents = None
        rules.setdefault(acl.name, []).append(_rule(acl))

    def remove(self, acls: Iterable[Acl]) -> None:
        """A name's rules are gone through once, however many of them go: it may have a hundred thousand."""
        going: dict[tuple[PatternType, str], Counter[_Rule]] = {}
        for acl in acls:
            going.setdefault((acl.pattern, acl.name), Counter())[_rule(acl)] += 1
        for (pattern, name), rules in going.items():
            self._remove(pattern, name, rules)

    def _remove(self, pattern: PatternType, name: str, going: Counter[_Rule]) -> None:
        rules = self.literal if pattern is PatternType.LITERAL else self.prefixed
        staying = []
        for rule in rules[name]:
            if going[rule]:  # two ACLs may be one rule: an address is written in several ways
                going[rule] -= 1
            else:
                staying.append(rule)
        if staying:
            rules[name] = staying
            return
        del rules[name]
        if rules is self.prefixed:
            del self._sorted[bisect_left(self._sorted, name)]
            self._parents = None

    def about(self, name: str) -> Iterator[list[_Rule]]:
        """The rules of each pattern that means the resource."""
        if name in self.literal:
            yield self.literal[name]
        if WILDCARD in self.literal and name != WILDCARD:
            yield self.literal[WILDCARD]
        if self._sorted:
            yield from self._prefixed_about(name)

    def _prefixed_about(self, name: str) -> Iterator[list[_Rule]]:
        prefixes = self._sorted
        if self._parents is None:
            self._parents = _parents_of(prefixes)
        place = bisect_right(prefixes, name) - 1
        while place >= 0:
            if name.startswith(prefixes[place]):
                yield self.prefixed[prefixes[place]]
            place = self._parents[place]


def _rule(acl: Acl) -> _Rule:
    return _Rule(acl.principal, address_of(acl.host), acl.operation, acl.permission is Permission.DENY)


def _parents_of(prefixes: list[str]) -> list[int]:
    """By place in the order: the place of the longest other prefix that begins it, -1 without one."""
    parents: list[int] = []
    path: list[int] = []  # places of those that begin the one before
    for place, prefix in enumerate(prefixes):
        while path and not prefix.startswith(prefixes[path[-1]]):
            path.pop()
        parents.append(path[-1] if path else -1)
        path.append(place)
    return parents


class AclSet:
    """A set of ACLs; each is there once."""

    def __init__(self, acls: Iterable[Acl] = ()) -> None:
        self._acls: dict[Acl, None] = {}
        self._by_type: dict[ResourceType, _TypeAcls] = {}
        for acl in acls:
            self.add(acl)

    def __len__(self) -> int:
        return len(self._acls)

    def __contains__(self, acl: Acl) -> bool:
        return acl in self._acls

    def __iter__(self) -> Iterator[Acl]:
        return iter(self._acls)

    def add(self, acl: Acl) -> None:
        if acl not in self._acls:
            self._acls[acl] = None
            self._by_type.setdefault(acl.type, _TypeAcls()).add(acl)

    def remove(self, acls: Iterable[Acl]) -> list[Acl]:
        """Remove ACLs together; returns those that were there."""
        gone = [acl for acl in dict.fromkeys(acls) if acl in self._acls]
        by_type: dict[ResourceType, list[Acl]] = {}
        for acl in gone:
            del self._acls[acl]
            by_type.setdefault(acl.type, []).append(acl)
        for kind, some in by_type.items():
            self._by_type[kind].remove(some)
        return gone

    def decide(self, principal: Principal, host: str, operation: Operation, kind: ResourceType, name: str) -> Verdict:
        """May the principal, coming from an address, do the operation on the resource?"""
        of_type = self._by_type.get(kind)
        if of_type is None:
            return Verdict.NO_ACL
        who, host = str(principal), address_of(host)
        is_allowed = is_about = False
        for rules in of_type.about(name):
            is_about = True
            for rule in rules:
                if rule.matches(who, host, operation):
                    if rule.denies:
                        return Verdict.DENIED
                    is_allowed = True
        if is_allowed:
            return Verdict.ALLOWED
        return Verdict.NOT_ALLOWED if is_about else Verdict.NO_ACL

    def allows_some(self, principal: Principal, host: str, operation: Operation, kind: ResourceType) -> bool:
        """Is there a resource of the type on which the ACLs allow the operation? As Kafka's default
        `authorizeByResourceType`, which looks at the ACLs of the very operation, and of ALL."""
        of_type = self._by_type.get(kind)
        if of_type is None:
            return False
        who, host = str(principal), address_of(host)

        def chosen(rules: list[_Rule], *, denies: bool) -> bool:
            return any(
                rule.denies is denies
                and rule.operation in (operation, Operation.ALL)
                and rule.principal in (who, ANY_USER)
                and rule.host in (WILDCARD, host)
                for rule in rules
            )

        wild = of_type.literal.get(WILDCARD, [])
        if chosen(wild, denies=True):
            return False
        if chosen(wild, denies=False):
            return True
        denied = {name for name, rules in of_type.prefixed.items() if chosen(rules, denies=True)}
        lengths = sorted({len(name) for name in denied})

        def is_covered(name: str) -> bool:
            return any(name[:length] in denied for length in lengths if 0 < length <= len(name))

        for patterns in (of_type.literal, of_type.prefixed):
            for name, rules in patterns.items():
                if patterns is of_type.literal and (name == WILDCARD or chosen(rules, denies=True)):
                    continue
                if chosen(rules, denies=False) and not is_covered(name):
                    return True
        return False
