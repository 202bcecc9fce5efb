"""Source code without its layout, the same text on every version of Python."""

from __future__ import annotations

import ast
import functools
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable
from typing import Any

Place = tuple[int, int]  # row from 1, column from 0, as tokenize counts

_F_STRING = re.compile(r"[rR]?[fF]")
# Kinds of token since Python 3.12.
_F_STRING_START = getattr(tokenize, "FSTRING_START", None)
_F_STRING_END = getattr(tokenize, "FSTRING_END", None)


def source_of(function: Callable[..., Any]) -> str:
    """The source of a function with its decorators, dedented.

    As :func:`inspect.getsource` finds it, but the file is parsed once for all functions in it, which is twice as fast
    as reading each one's tokens.

    Raises
    ------
    OSError
        If there is no source.
    """
    lines, start = inspect.findsource(function)
    end = _ends("".join(lines)).get(start + 1)
    return textwrap.dedent("".join(inspect.getblock(lines[start:]) if end is None else lines[start:end]))


@functools.lru_cache(maxsize=8)
def _ends(source: str) -> dict[int, int]:
    """The last line of each function by its first, decorators included; lines count from 1."""
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {min(part.lineno for part in (n, *n.decorator_list)): n.end_lineno or n.lineno for n in functions}


def normalise(source: str) -> str:
    """Strip comments, docstrings and white space outside strings; keep what a program does.

    Trees of :mod:`ast` would do the same, but their dumps differ between versions of Python, and a hash of the
    code must not. White space inside f-strings does not count: they are one token up to Python 3.11 and several since.

    Examples
    --------
    >>> normalise("def f(x):\\n    '''Doc.'''\\n    return x, 'a b'  # why\\n")
    "deff(x):\\n{\\nreturnx,'a b'\\n}"
    """
    rows = source.splitlines(keepends=True)
    statements: list[str] = []
    kept: list[tuple[Place, Place, str]] = []  # spans of the statement that are not squeezed, and what they become
    start: Place | None = None
    only_strings = True
    nested = 0  # how many f-strings we are in
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            statements.append("{" if token.type == tokenize.INDENT else "}")
        elif token.type == tokenize.NEWLINE:
            if start is not None and not only_strings:
                statements.append(_squeezed(rows, start, token.start, kept))
            start, only_strings, kept = None, True, []
        elif token.type not in (tokenize.NL, tokenize.ENDMARKER, tokenize.COMMENT):
            start = start or token.start
            only_strings = only_strings and token.type == tokenize.STRING
        if token.type == tokenize.COMMENT and start is not None:
            kept.append((token.start, token.end, ""))
        elif token.type == tokenize.STRING and not nested and not _F_STRING.match(token.string):
            kept.append((token.start, token.end, token.string))
        nested += (token.type == _F_STRING_START) - (token.type == _F_STRING_END)
    return "\n".join(statements)


def _squeezed(rows: list[str], start: Place, end: Place, kept: list[tuple[Place, Place, str]]) -> str:
    """The source between two places without white space, but for the spans that are kept."""
    pieces = []
    for left, right, text in [*kept, (end, end, "")]:
        pieces += ["".join(_between(rows, start, left).split()), text]
        start = right
    return "".join(pieces)


def _between(rows: list[str], start: Place, end: Place) -> str:
    if start[0] == end[0]:
        return rows[start[0] - 1][start[1] : end[1]]
    middle = rows[start[0] : end[0] - 1]
    last = rows[end[0] - 1][: end[1]] if end[0] <= len(rows) else ""
    return "".join([rows[start[0] - 1][start[1] :], *middle, last])
