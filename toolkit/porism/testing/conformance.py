"""Running the checks on papers, one by one or as pytest tests."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import unittest
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from porism.errors import PorismError, did_you_mean
from porism.registry import BrokenPaperError, LoadedPaper, find, listing, load, missing_extras
from porism.scan import locate
from porism.testing import claim_checks, figure_checks, file_checks

if TYPE_CHECKING:
    import pytest

# For every paper, whatever its kind; the checks of a kind are in the module of its name.
GENERAL = (file_checks, claim_checks, figure_checks)


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One rule that papers follow.

    Calling it with a paper's key or path raises :class:`AssertionError`, with how to mend it, where the paper
    breaks the rule, and :class:`unittest.SkipTest` where this machine cannot tell.
    """

    function: Callable[[LoadedPaper], None]

    @property
    def name(self) -> str:
        """The function's name, such as ``check_same_seed_same_bits``."""
        return self.function.__name__

    def __call__(self, paper: str) -> None:
        self.function(_loaded(paper))


def papers_in(package: str) -> list[str]:
    """Keys of the installed papers whose files are in a package, for :func:`parametrize_with_checks`.

    Raises
    ------
    PorismError
        If there is none, so that a test of no papers cannot pass.
    BrokenPaperError
        If one of them cannot be listed.

    Examples
    --------
    >>> "sinkd" in papers_in("porism_plugins")
    True
    """
    found = listing()
    folder = locate(package) or ""
    for broken in found.broken:
        if (folder and broken.where.startswith(folder + os.sep)) or broken.where == folder:
            raise BrokenPaperError(f"{broken.where}: {broken.reason}", broken.details)
    inside = [key for key, entry in found.entries.items() if f"{entry.module}.".startswith(f"{package}.")]
    if not inside:
        others = "".join(f"; {broken.where} is broken: {broken.reason}" for broken in found.broken)
        raise PorismError(
            f'no installed paper is in package {package!r}; name it under [project.entry-points."porism.papers"] '
            f"in pyproject.toml and run `pip install -e .`{others}"
        )
    return sorted(inside)


def checks_for(paper: str) -> list[Check]:
    """Every check that applies to a paper: the general ones and those of its kinds.

    Parameters
    ----------
    paper
        A key, or the path of a file.

    Raises
    ------
    PorismError
        If there is no such paper.

    Examples
    --------
    >>> [check.name for check in checks_for("label_shift")][0]
    'check_metadata_agrees_with_file'
    """
    modules = [*GENERAL]
    for kind in find(paper).paper.kinds:
        if importlib.util.find_spec(f"porism.kinds.{kind}"):
            modules.append(importlib.import_module(f"porism.kinds.{kind}"))
    return [Check(function) for module in modules for function in _checks_in(module)]


def check_paper(paper: str) -> None:
    """Run every check on a paper, by key or path.

    Raises
    ------
    ExceptionGroup
        With one exception for each check that fails, and its name as a note.
    PorismError
        If the paper does not exist or cannot be imported.

    Examples
    --------
    >>> check_paper("label_shift")  # doctest: +SKIP
    """
    _loaded(paper)
    failures = []
    for check in checks_for(paper):
        try:
            check(paper)
        except unittest.SkipTest:
            continue
        except Exception as error:
            error.add_note(check.name)
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"{paper} fails {', '.join(e.__notes__[-1] for e in failures)}", failures)


def parametrize_with_checks(
    papers: Sequence[str], expected_failures: Mapping[str, Mapping[str, str]] | None = None
) -> pytest.MarkDecorator:
    """Make one test for each paper and check: a decorator for ``def test_porism(paper, check): check(paper)``.

    Parameters
    ----------
    papers
        Keys or paths, such as :func:`papers_in` returns.
    expected_failures
        ``{"key": {"check_name": "reason"}}``. Such a check is run and must fail.

    Raises
    ------
    PorismError
        If ``papers`` is empty, or ``expected_failures`` names an unknown paper or check.
    """
    import pytest

    expected = expected_failures or {}
    by_key = {find(paper).paper.key: paper for paper in papers}
    if not by_key:
        raise PorismError("there are no papers to check")
    for key in expected:
        if key not in by_key:
            raise PorismError(f"expected_failures: {key!r} is not checked here{did_you_mean(key, by_key)}")
    parameters: list[Any] = []
    for key, paper in by_key.items():
        missing = missing_extras(find(paper).paper)
        if missing:
            skip = pytest.mark.skip(reason=f"needs pip install 'porism[{','.join(missing)}]'")
            parameters.append(pytest.param(paper, None, id=f"{key}-not_installed", marks=skip))
            continue
        reasons = expected.get(key, {})
        checks = {check.name: check for check in checks_for(paper)}
        for name in reasons:
            if name not in checks:
                raise PorismError(f"expected_failures: {key} has no check {name!r}{did_you_mean(name, checks)}")
        for name, check in checks.items():
            marks = [pytest.mark.xfail(reason=reasons[name], strict=True)] if name in reasons else []
            parameters.append(pytest.param(paper, check, id=f"{key}-{name}", marks=marks))
    return pytest.mark.parametrize(("paper", "check"), parameters)


def _checks_in(module: ModuleType) -> list[Callable[[LoadedPaper], None]]:
    """The functions named ``check_*`` that a module defines, in order."""
    return [f for name, f in vars(module).items() if name.startswith("check_") and f.__module__ == module.__name__]


def _loaded(paper: str) -> LoadedPaper:
    return _load(paper, os.stat(find(paper).path).st_ctime_ns)


@functools.lru_cache(maxsize=8)
def _load(paper: str, changed: int) -> LoadedPaper:
    """Load a version of a file once, so that its checks share what they run."""
    return load(paper)
