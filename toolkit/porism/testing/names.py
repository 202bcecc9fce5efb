"""The claims and figures that a paper's file declares, read from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_DECORATORS = frozenset({"always", "typically", "proved", "figure"})


def declared_names(source: bytes) -> Iterator[str]:
    """Names of the functions at the top level that are decorated as claims or figures, each as often as it is.

    Examples
    --------
    >>> list(declared_names(b"@porism.always('A', where='B')\\ndef claim(rng): ...\\n@other\\ndef helper(): ..."))
    ['claim']
    """
    body = ast.parse(source).body
    imports = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    renamed = {alias.asname or alias.name: alias.name for alias in imports}
    for node in body:
        if isinstance(node, ast.FunctionDef) and any(_declares(d, renamed) for d in node.decorator_list):
            yield node.name


def _declares(decorator: ast.expr, renamed: dict[str, str]) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return renamed.get(name, name) in _DECORATORS
