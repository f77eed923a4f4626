"""A cycle in a directed graph, if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def cycle_in(edges: Mapping[int, set[int]]) -> list[int]:
    """The nodes of one cycle, the first of them again at the end; nothing where there is none."""
    done: set[int] = set()
    for start in list(edges):
        path: list[int] = []
        on_path: set[int] = set()
        walk: list[tuple[int, Iterator[int]]] = []
        if start not in done:
            _enter(start, edges, path, on_path, walk)
        while walk:
            node, onward = walk[-1]
            following = next(onward, None)
            if following is None:
                walk.pop()
                path.pop()
                on_path.discard(node)
                done.add(node)
            elif following in on_path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                _enter(following, edges, path, on_path, walk)
    return []


def _enter(
    node: int,
    edges: Mapping[int, set[int]],
    path: list[int],
    on_path: set[int],
    walk: list[tuple[int, Iterator[int]]],
) -> None:
    path.append(node)
    on_path.add(node)
    walk.append((node, iter(edges.get(node, set()))))
