"""Everything that the documents name is there: files, links, keys, commands, flags, metrics, functions.

Keeps: a file that moves takes the sentences along that name it, since this fails until they do. A name without a folder
is allowed only where the tree has one file of that name.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from gateway.cli.app import add_tools, app
from gateway.config.loading import load
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.kafka_configs.resource_keys import KINDS
from gateway.kafka_configs.topic_keys import TOPIC_KEYS

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parents[1]
WORDS_MAX: Final = {"README.md": 1_200, "ARCHITECTURE.md": 2_500}
DOCUMENTS: Final = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES: Final = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]

NOT_OURS: Final = frozenset({"__pycache__", "node_modules", "build", "dist", "data", "target"})
"""Folders that installing, building and running leave; so do those whose name begins with a dot."""
SOURCES: Final = ("gateway", "core", "tier2")
SUFFIXES: Final = (
    "py",
    "md",
    "toml",
    "json",
    "svg",
    "png",
    "webp",
    "c",
    "h",
    "sh",
    "java",
    "lock",
    "xml",
    "yaml",
    "pem",
)
WRITTEN_BY_USERS: Final = frozenset({"penstock.toml", "run.json", "run.csv", "server.pem", "ca.pem"})
"""Files of examples."""

CLIENTS_PROPERTIES: Final = frozenset(
    {"bootstrap.servers", "transactional.id", "transaction.timeout.ms", "isolation.level", "processing.guarantee"}
    | {
        "client.rack",
        "group.protocol",
        "group.remote.assignor",
        "max.poll.interval.ms",
        "delivery.timeout.ms",
        "message.timeout.ms",
    }
)
KAFKAS_PROPERTIES: Final = frozenset({"flush.messages", "group.coordinator.rebalance.protocols"})
"""Of a Kafka that we compare with: Penstock has no such key."""
OTHER_PROGRAMS: Final = frozenset({"--network", "--rm", "--bootstrap-server", "--list", "--alter", "--topic"}) | {
    "--add-config", "--entity-type", "--strict", "--add", "--allow-principal", "--allow-host", "--producer",
    "--entity-name", "--entity-default", "--command-config", "--describe", "--group", "--state", "--members",
    "--verbose", "--create", "--max-life-time-period", "--renewer-principal", "--pid",
}  # fmt: skip
"""Flags of docker, of Kafka's tools, of mypy and of coreutils."""

SPAN: Final = re.compile(r"`([^`\n]+)`")
PATH: Final = re.compile(rf"[\w.-]+(?:/[\w.-]+)*\.(?:{'|'.join(SUFFIXES)})|[\w.-]+(?:/[\w.-]+)+/?")
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
KEY: Final = re.compile(r"[a-z][a-z0-9]*(?:\.[a-z0-9]+)+")
SET: Final = re.compile(r"--(?:set|add-config) ([a-z0-9.]+)=")
VARIABLE: Final = re.compile(r"PENSTOCK_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)")
METRIC: Final = re.compile(r"penstock_[a-z0-9_]+")
FLAG: Final = re.compile(r"--[a-z][a-z0-9-]+")
COMMAND: Final = re.compile(r"(?:^|[/`(] ?)penstock ((?:[a-z0-9]+)(?: [^`|&#)\n]*)?)", re.MULTILINE)
MEMBER: Final = re.compile(r"(_?[A-Z]\w+)\.(\w+)(?:\(\))?")
FUNCTION: Final = re.compile(r"([a-z_]+)\.([a-z_]+)")

each_document = pytest.mark.parametrize("name", NAMES)


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def prose(name: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text_of(name), flags=re.MULTILINE | re.DOTALL)


@cache
def spans(name: str) -> list[str]:
    """Text between backticks, also where it goes over a line's end."""
    return [span for part in prose(name).split("\n\n") for span in SPAN.findall(re.sub(r"\n\s*", " ", part))]


@cache
def tree() -> tuple[str, ...]:
    """Every file of the project, relative to its root."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(one for one in folders if one not in NOT_OURS and one[0] != "." and ".egg-info" not in one)
        found += [(Path(folder) / file).relative_to(ROOT).as_posix() for file in files]
    return tuple(found)


@cache
def names_in_tree() -> Counter[str]:
    return Counter(path.rpartition("/")[2] for path in tree())


@cache
def parsed() -> Mapping[str, ast.Module]:
    ours = [path for path in tree() if path.endswith(".py") and path.split("/")[0] in SOURCES]
    return {path: ast.parse((ROOT / path).read_text()) for path in ours}


@cache
def literals() -> frozenset[str]:
    """Texts in the sources, and the fixed beginnings of composed ones."""
    nodes = (node for module in parsed().values() for node in ast.walk(module))
    return frozenset(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@cache
def members() -> Mapping[str, frozenset[str]]:
    """By class: methods, fields and attributes."""
    found: dict[str, set[str]] = {}
    for module in parsed().values():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(_members_of(node))
    return {name: frozenset(inside) for name, inside in found.items()}


def _members_of(node: ast.ClassDef) -> Iterator[str]:
    for inner in ast.walk(node):
        match inner:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


@cache
def functions_of(path: str) -> frozenset[str]:
    nodes = ast.walk(parsed()[path])
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def keys() -> frozenset[str]:
    """Every configuration key: of the process, of topics, of brokers, of groups and other resources."""
    config = load(environ={})
    ours = {key.replace("_", ".") for key in type(config).model_fields}
    brokers = {described.name for described in BrokerConfigs(config).describe_node()}
    resources = {key for kind in KINDS.values() for key in kind.keys}
    return frozenset(ours | set(TOPIC_KEYS) | brokers | resources)


@cache
def command() -> Any:
    add_tools()
    return typer.main.get_command(app)


def flags_of(one: Any) -> frozenset[str]:
    own = {flag for param in one.params for flag in (*param.opts, *param.secondary_opts)}
    return frozenset(own | {"--help"}).union(*(flags_of(sub) for sub in getattr(one, "commands", {}).values()))


@each_document
def test_paths(name: str) -> None:
    """A path is one of the tree, and a bare file name is unambiguous."""
    assert [problem for span in spans(name) for problem in path_problems(span)] == []


def path_problems(span: str) -> Iterator[str]:
    if PATH.fullmatch(span) is None or span.startswith("./") or span in keys():
        return
    first, _, rest = span.partition("/")
    if rest:
        if (ROOT / first).is_dir() and not (ROOT / span).exists():
            yield f"{span} is not there"
        elif not (ROOT / first).is_dir() and span.endswith(SUFFIXES):
            yield f"{span} does not begin at the root"
    elif span.rpartition(".")[2] not in ("py", "md", "c", "h", "sh", "java"):
        if names_in_tree()[span] != 1 and span not in literals() | WRITTEN_BY_USERS:
            yield f"{span} is neither a file nor a name in the sources"
    elif names_in_tree()[span] != 1 and not (ROOT / span).exists():
        yield f"{span} is the name of {names_in_tree()[span]} files"


@each_document
def test_links(name: str) -> None:
    """A link leads to a file of the tree, and its anchor to a heading there."""
    broken = []
    for target in LINK.findall(prose(name)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)

    assert broken == []


def anchors(path: Path) -> set[str]:
    """As GitHub makes them: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(path.resolve().relative_to(ROOT).as_posix()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", WORDS_MAX)
def test_lengths(name: str) -> None:
    """README and ARCHITECTURE stay short: details have pages of their own."""
    assert len(text_of(name).split()) <= WORDS_MAX[name]


@each_document
def test_keys(name: str) -> None:
    """A configuration key is one that the model or Kafka's tools know, also where an environment variable names it."""
    named = {part for span in spans(name) for part in re.split(r"[=\s]", span)[:1] if KEY.fullmatch(part)}
    named |= set(SET.findall(text_of(name)))
    named = {one for one in named if not _is_something_else(one)}
    variables = {one.removeprefix("PENSTOCK_").lower().replace("_", ".") for one in VARIABLE.findall(text_of(name))}

    assert sorted((named | variables) - keys() - CLIENTS_PROPERTIES - KAFKAS_PROPERTIES) == []


def _is_something_else(dotted: str) -> bool:
    """A file, a module, or a function of a module, which other tests look at; a name that the sources have."""
    is_file = dotted.rpartition(".")[2] in SUFFIXES
    return is_file or dotted in literals() - keys() or _module(dotted) or _in_module(dotted) is not None


def _is_key_or_file(dotted: str) -> bool:
    return dotted in keys() or dotted.rpartition(".")[2] in SUFFIXES or _module(dotted)


def _module(dotted: str) -> bool:
    """Whether it is a module of the project, or one of Python's."""
    path = ROOT / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists() or dotted.split(".")[0] in sys.stdlib_module_names


def _in_module(dotted: str) -> bool | None:
    """Whether a module of ours has that function; None where `dotted` names no module."""
    module, _, function = dotted.rpartition(".")
    paths = [path for path in parsed() if path.rpartition("/")[2] == f"{module}.py"]
    return any(function in functions_of(path) for path in paths) if paths else None


@each_document
def test_members(name: str) -> None:
    """A `Class.member` is in a class of that name, a `module.function` in a module."""
    missing = []
    for span in spans(name):
        if (found := MEMBER.fullmatch(span)) and found[1] in members() and found[2] not in members()[found[1]]:
            missing.append(span)
        if (
            FUNCTION.fullmatch(span)
            and not (_is_key_or_file(span) or span in CLIENTS_PROPERTIES)
            and _in_module(span) is False
        ):
            missing.append(span)

    assert missing == []


def test_packages() -> None:
    """ARCHITECTURE has a row for each package, so that a reader finds every module."""
    table = text_of("ARCHITECTURE.md").partition("## Packages")[2].partition("\n## ")[0]
    rows = {span for row in re.findall(r"^\| .+$", table, re.MULTILINE) for span in SPAN.findall(row.split(" | ")[0])}
    packages = {path.rpartition("/")[0] for path in parsed() if path.endswith("/__init__.py")}

    assert sorted(packages - rows - {"gateway"}) == []  # its own modules stand below the table


def test_decisions() -> None:
    """Every decision is listed, by its number."""
    listed = re.findall(r"^\| \[(\d{4})\]\((\S+)\)", text_of("docs/decisions/README.md"), re.MULTILINE)

    assert [file for _, file in listed] == sorted(path.name for path in (ROOT / "docs/decisions").glob("0*.md"))
    assert all(file.startswith(f"{number}-") for number, file in listed)


def test_behaviours() -> None:
    """Each row of "Find a behaviour" names functions of the modules that it names."""
    rows = text_of("ARCHITECTURE.md").partition("## Find a behaviour")[2].partition("\n## ")[0]
    named = 0
    for row in re.findall(r"^\| .+$", rows, re.MULTILINE):
        cells = SPAN.findall(row)
        modules = [cell for cell in cells if cell.endswith(".py")]
        there = {function for module in modules for function in functions_of(module)}
        functions = {cell for cell in cells if re.fullmatch(r"[a-z_]+", cell)} if modules else set()
        assert functions <= there, row
        named += len(functions)

    assert named >= 10


@each_document
def test_commands(name: str) -> None:
    """A `penstock` command, and each flag of it, is one that the command line has."""
    blocks = re.findall(r"^```.*?^```$", text_of(name), re.MULTILINE | re.DOTALL)
    written = [words for part in (*blocks, *(f"`{span}`" for span in spans(name))) for words in COMMAND.findall(part)]
    problems = [problem for words in written for problem in command_problems(words.split())]
    known = flags_of(command()) | OTHER_PROGRAMS | flags_of_modules(name)

    assert problems == []
    assert sorted(set(FLAG.findall(text_of(name))) - known) == []


def command_problems(words: Sequence[str]) -> Iterator[str]:
    one = command()
    rest = list(words)
    while rest and hasattr(one, "commands"):
        if rest[0] not in one.commands:
            break
        one = one.commands[rest.pop(0)]
    if hasattr(one, "commands") and rest and not rest[0].startswith("-"):
        yield f"penstock {' '.join(words)}: {rest[0]}"
    known = flags_of(one)
    for flag in (word.split("=")[0] for word in rest if word.startswith("--")):
        if flag not in known:
            yield f"penstock {' '.join(words)}: {flag}"


def flags_of_modules(name: str) -> set[str]:
    """Flags of `python -m MODULE` and of `make`, whose sources have them as text."""
    found = set()
    for module in [*re.findall(r"python -m ([\w.]+)", text_of(name)), "bench.compare", "bench.transactions"]:
        if (spec := importlib.util.find_spec(module)) is not None and spec.origin is not None:
            folder = Path(spec.origin).parent if spec.submodule_search_locations else None
            files = [Path(spec.origin)] if folder is None else list(folder.glob("*.py"))
            found |= {flag for file in files for flag in re.findall(r'"(--[a-z-]+)"', file.read_text())}
    return found


@each_document
def test_modules_and_targets(name: str) -> None:
    """`python -m` names a module, `make` a target, `scripts/` a script."""
    text = text_of(name)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    modules = set(re.findall(r"python -m ([\w.]+\w)", text))

    assert made <= targets
    assert {module for module in modules if not _module(module)} == set()


@each_document
def test_metrics(name: str) -> None:
    """A metric is one that the sources have, whole or composed of its beginning and its end."""
    named = {metric for span in spans(name) for metric in METRIC.findall(span)}
    beginnings = {text for text in literals() if re.fullmatch(r"penstock_([a-z0-9]+_)*", text)}

    def is_there(metric: str) -> bool:
        return metric in literals() or any(
            metric.startswith(beginning) and metric.removeprefix(beginning) in literals() for beginning in beginnings
        )

    assert {metric for metric in named if not (is_there(metric) or is_there(metric.removesuffix("_total")))} == set()


def test_signs() -> None:
    """A line of the log or of an error that the runbook quotes is one that the sources write."""
    written = "\n".join(literals())
    quoted = [span for span in spans("docs/operating/runbook.md") if " " in span and not span.startswith("penstock ")]

    assert len(quoted) >= 25
    assert [part for span in quoted for part in re.split("…", span) if part.strip(" .:()") not in written] == []
