"""What a paper is to the toolkit: a frozen record of literals, readable without importing its file."""

from __future__ import annotations

import dataclasses
import re

from porism.kinds import KINDS

# The extras a paper may ask for in `needs`; pyproject.toml says which distributions each stands for.
EXTRAS = ("torch", "hf", "theory", "transport", "plots")

_KEY = re.compile(r"[a-z][a-z0-9_]{0,99}")  # it names folders and files
# Line ends and what is no text at all: control characters and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_REF = re.compile(r"(arXiv:\d{4}\.\d{4,5}|arXiv:[a-z-]+(\.[A-Z]{2})?/\d{7}|doi:10\.\d{4,9}/\S+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """One paper, as its file declares it: ``PAPER = Paper(key=..., ...)`` with literals only.

    Parameters
    ----------
    key
        Short name used everywhere, ``[a-z][a-z0-9_]*``.
    title, authors, year
        As printed on the paper; authors as a tuple of full names.
    ref
        ``"arXiv:2212.00700"`` or ``"doi:10.1007/..."``.
    kinds
        What the paper is to its user; each one a key of :data:`porism.kinds.KINDS`.
    family
        The folder it lives in, such as ``"distill"``.
    needs
        Extras that must be installed before the file can be imported; among :data:`EXTRAS`.
    tags
        Free words for filters.
    method
        Name, in the same file, of the class or function a user calls.

    Raises
    ------
    ValueError
        If a field breaks its rule; the message names the field.

    Examples
    --------
    >>> paper = Paper(key="pythagoras", title="On triangles", authors=("Pythagoras",), year=2020,
    ...               ref="arXiv:2001.00001", kinds=("simulator",), family="geometry")
    >>> paper.url
    'https://arxiv.org/abs/2001.00001'
    """

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    ref: str
    kinds: tuple[str, ...]
    family: str
    needs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    method: str = ""

    def __post_init__(self) -> None:
        for name in ("key", "title", "ref", "family", "method"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"Paper.{name} must be a string")
        for name in ("authors", "kinds", "needs", "tags"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"Paper.{name} must be a tuple of strings")
        for field in dataclasses.fields(self):
            if any(_UNPRINTABLE.search(text) for text in _texts(getattr(self, field.name))):
                raise ValueError(f"Paper.{field.name} must be text on one line, without control characters")
        if not _KEY.fullmatch(self.key):
            raise ValueError(
                f"Paper.key must match [a-z][a-z0-9_]* and have at most 100 letters, got {self.key[:120]!r}"
            )
        if not self.title or not self.authors or not self.family:
            raise ValueError("Paper.title, Paper.authors and Paper.family must not be empty")
        if not isinstance(self.year, int) or not 1600 <= self.year <= 2200:
            raise ValueError(f"Paper.year must be a year, got {self.year!r}")
        if not _REF.fullmatch(self.ref):
            raise ValueError(f"Paper.ref must be 'arXiv:...' or 'doi:10....', got {self.ref!r}")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"Paper.kinds must be one or more of {', '.join(KINDS)}; got {self.kinds!r}")
        if not set(self.needs) <= set(EXTRAS):
            raise ValueError(f"Paper.needs must be among {', '.join(EXTRAS)}; got {self.needs!r}")

    @property
    def url(self) -> str:
        """Where the paper can be read."""
        scheme, _, identifier = self.ref.partition(":")
        return f"https://arxiv.org/abs/{identifier}" if scheme == "arXiv" else f"https://doi.org/{identifier}"

    @property
    def bibtex(self) -> str:
        """A BibTeX entry made of the fields above."""
        scheme, _, identifier = self.ref.partition(":")
        where = (
            f"eprint = {{{identifier}}},\n  archivePrefix = {{arXiv}}"
            if scheme == "arXiv"
            else f"doi = {{{identifier}}}"
        )
        return (
            f"@article{{{self.key}{self.year},\n"
            f"  title = {{{self.title}}},\n"
            f"  author = {{{' and '.join(self.authors)}}},\n"
            f"  year = {{{self.year}}},\n  {where}\n}}"
        )


def _texts(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
