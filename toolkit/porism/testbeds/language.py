"""Real text that every Python brings along: the language reference in English, and source of the standard library.

Everything is characters of one fixed :data:`ALPHABET`, so that a model trained under one Python runs under another. The
texts themselves differ a little between versions of Python (the reference has 465,000 characters in 3.11), and so do
models trained on them.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import unicodedata
from typing import Literal, NamedTuple

import numpy as np

from porism.errors import ParameterError, PorismError

ALPHABET = "".join(map(chr, range(32, 127))) + "\n"
# Long modules that are one file from Python 3.11 on; nobody's import runs them here.
MODULES = (
    *("argparse", "dataclasses", "difflib", "doctest", "inspect", "ipaddress", "mailbox", "optparse"),
    *("pickletools", "pydoc", "shutil", "statistics", "subprocess", "tarfile", "turtle", "typing"),
)
# What :func:`missing_vowels` writes where a character is missing.
MASK = len(ALPHABET)

Domain = Literal["manual", "source"]
_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "–": "-", "—": "--", "ß": "ss", "\t": " " * 8, "\r": ""}
)
_CODES = {character: code for code, character in enumerate(ALPHABET)}


class Corpus(NamedTuple):
    """Three disjoint parts of a text as codes in 0..95, int64 of shape (n,); ``alphabet[code]`` is the character."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    alphabet: str


class Gaps(NamedTuple):
    """Windows ``x`` with a vowel missing, int64 of shape (n, length), and which, ``y`` in 0..4 for a, e, i, o, u."""

    x: np.ndarray
    y: np.ndarray


def text() -> str:
    """The topics of Python's reference (:mod:`pydoc_data.topics`), about 377,000 characters of English and examples.

    Topics contain one another (``compound`` has all of ``if`` and ``for``): a paragraph that has been there is left
    out, or a test set would repeat the training set. What :data:`ALPHABET` lacks is written with what it has.

    Examples
    --------
    >>> 300_000 < len(text()) < 600_000
    True
    """
    return "\n\n".join(documents("manual").values())


def stdlib_source() -> str:
    """The source of :data:`MODULES`, about 1.3 million characters: another language for a shifted task.

    Examples
    --------
    >>> stdlib_source().count("def ") > 1000
    True
    """
    return "\n\n".join(documents("source").values())


@functools.cache
def documents(domain: Domain = "manual") -> dict[str, str]:
    """The texts of a domain by topic or module, each paragraph once, in a fixed order.

    Raises
    ------
    PorismError
        If this Python was installed without its documentation or source.
    """
    if domain == "manual":
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise PorismError("this Python lacks pydoc_data.topics; install its standard library whole") from error
        originals = {name: topics[name] for name in sorted(topics)}
    elif domain == "source":
        originals = {name: _source(name) for name in MODULES}
    else:
        raise ParameterError(f"domain must be 'manual' or 'source', got {domain!r}")
    return _once(originals)


def plain(text: str) -> str:
    """The text in :data:`ALPHABET`: typographic signs spelt out, accents taken off, what is left dropped.

    Examples
    --------
    >>> plain("“naïve” — 5°")
    '"naive" -- 5'
    """
    return "".join(c for c in unicodedata.normalize("NFKD", text.translate(_TYPOGRAPHY)) if c in _CODES)


def encode(text: str) -> np.ndarray:
    """Codes of a text's :func:`plain` form, int64 in 0..95.

    Examples
    --------
    >>> decode(encode("Ceci n’est pas"))
    "Ceci n'est pas"
    """
    return np.array([_CODES[character] for character in plain(text)], dtype=np.int64)


def decode(tokens: np.ndarray) -> str:
    """The text of codes in 0..95, the inverse of :func:`encode`."""
    return "".join(ALPHABET[code] for code in tokens)


def corpus(
    rng: np.random.Generator,
    *,
    domain: Domain = "manual",
    validation: float = 0.1,
    test: float = 0.1,
) -> Corpus:
    """Split a domain by whole topics (or modules) drawn by ``rng``, so that no part continues another.

    Parameters
    ----------
    rng
        Decides which document goes where.
    domain
        ``"manual"``: :func:`text`; ``"source"``: :func:`stdlib_source`.
    validation, test
        Largest share of the characters in these parts, in [0, 1) with a sum below 1. They are filled with documents
        that fit, so a share that no document fits stays empty.

    Raises
    ------
    ParameterError
        If a share is out of its range or the domain unknown.

    Examples
    --------
    >>> data = corpus(np.random.default_rng(0))
    >>> data.train.dtype, len(data.train) > 7 * len(data.test) > 0
    (dtype('int64'), True)
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ParameterError(f"validation and test must be in [0, 1) with a sum below 1, got {validation} and {test}")
    found = documents(domain)
    whole = sum(map(len, found.values()))
    room = {"test": test * whole, "validation": validation * whole, "train": float(whole)}
    parts: dict[str, list[str]] = {part: [] for part in room}
    names = list(found)
    for i in rng.permutation(len(names)):
        size = len(found[names[i]])
        part = next(part for part in room if size <= room[part])
        room[part] -= size
        parts[part].append(found[names[i]])
    train, checked, tested = (encode("\n\n".join(parts[part])) for part in ("train", "validation", "test"))
    return Corpus(train, checked, tested, ALPHABET)


def windows(rng: np.random.Generator, tokens: np.ndarray, *, batch: int = 8, length: int = 128) -> np.ndarray:
    """Windows that start anywhere in a text, as many as ``batch``: shape (batch, length), dtype of ``tokens``.

    Raises
    ------
    ParameterError
        If ``tokens`` is not one row of at least ``length`` codes, or a size is below 1.

    Examples
    --------
    >>> windows(np.random.default_rng(0), np.arange(100), batch=2, length=3)
    array([[83, 84, 85],
           [62, 63, 64]])
    """
    if batch < 1:
        raise ParameterError(f"batch must be at least 1, got {batch}")
    rows = _sliding(tokens, length)
    return rows[rng.integers(len(rows), size=batch)]


def blocks(tokens: np.ndarray, length: int = 128) -> np.ndarray:
    """A text in consecutive windows, shape (n, length); what is left at its end is dropped.

    Raises
    ------
    ParameterError
        As :func:`windows`.

    Examples
    --------
    >>> blocks(np.arange(7), 3)
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    return _sliding(tokens, length)[::length].copy()


def missing_vowels(tokens: np.ndarray, *, length: int = 32) -> Gaps:
    """A cloze test for encoders: every window whose middle is a small vowel, hidden behind :data:`MASK`.

    Only the order of the letters tells which it was: 0.34 of the gaps in the manual are an *e*, and a logistic
    regression on counts of characters is right for 0.35 of them.

    Parameters
    ----------
    tokens
        Codes of a text, shape (n,).
    length
        Characters in a window, at least 2; the gap is at ``length // 2``.

    Raises
    ------
    ParameterError
        As :func:`windows`, or if the text has no vowel with a window around it.

    Examples
    --------
    >>> gaps = missing_vowels(encode("the man"), length=4)
    >>> [decode(x[x != MASK]) for x in gaps.x], gaps.y.tolist()
    (['th ', ' mn'], [1, 0])
    """
    rows = _sliding(tokens, length)
    vowels = encode("aeiou")
    rows = rows[np.isin(rows[:, length // 2], vowels)]
    if length < 2 or not len(rows):
        raise ParameterError(f"tokens must have a small vowel inside a window of length >= 2, got length {length}")
    x = rows.astype(np.int64)
    y = np.searchsorted(vowels, x[:, length // 2])
    x[:, length // 2] = MASK
    return Gaps(x, y)


def _once(originals: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    kept = {}
    for name, original in originals.items():
        fresh = []
        for paragraph in re.split(r"\n\s*\n", plain(original)):
            if paragraph.strip() and paragraph.strip() not in seen:
                seen.add(paragraph.strip())
                fresh.append(paragraph.rstrip())
        if fresh:
            kept[name] = "\n\n".join(fresh)
    return kept


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    source = spec.loader.get_source(name) if spec and hasattr(spec.loader, "get_source") else None  # type: ignore[union-attr]
    if not source:
        raise PorismError(f"this Python has no source of {name}; install its standard library whole")
    return str(source)


def _sliding(tokens: np.ndarray, length: int) -> np.ndarray:
    """All windows, as a view."""
    row = np.asarray(tokens)
    if row.ndim != 1 or not 1 <= length <= len(row):
        raise ParameterError(f"tokens must have shape (n,) with n >= length >= 1, got {row.shape} and length {length}")
    return np.lib.stride_tricks.sliding_window_view(row, length)
