"""Checks of a paper's file: what it declares, what importing it does, and the verdicts beside it."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable
from importlib.metadata import packages_distributions
from typing import Any

from porism.errors import ParameterError, PorismError
from porism.kinds.protocols import INTERFACES, members
from porism.paper import EXTRAS
from porism.parameters import parameters_of
from porism.registry import LoadedPaper, distributions_of, method
from porism.seeds import ROOT
from porism.testing.imports import foreign_imports
from porism.testing.names import declared_names
from porism.testing.probe import probe
from porism.verdicts import latest, read_verdicts, verdict_file


def check_metadata_agrees_with_file(loaded: LoadedPaper) -> None:
    """What listing reads without importing is what importing gives."""
    declared = getattr(loaded.module, "PAPER", None)
    assert declared == loaded.paper, (
        f"PAPER is {declared!r} after the import, but reads {loaded.paper!r} in the file; "
        "assign PAPER once, as `PAPER = Paper(...)` with literals"
    )


def check_docstring_names_the_reference(loaded: LoadedPaper) -> None:
    """A reader of the file learns in its first lines which paper it is."""
    identifier = loaded.paper.ref.partition(":")[2]
    text = loaded.module.__doc__ or ""
    assert identifier in text, f"the module docstring must name its paper; write {loaded.paper.ref} into it"


def check_method_is_documented(loaded: LoadedPaper) -> None:
    """``PAPER.method`` names something callable here, with a docstring that says what each argument is."""
    name = loaded.paper.method
    assert name, "PAPER has no method; name the class or function that a user calls"
    offered: Any = method(loaded)
    assert callable(offered), f"PAPER.method is {name!r}, but the file defines no such class or function"
    text = offered.__doc__ or ""
    assert text.strip(), f"{name} has no docstring; say what it does, in numpy style"
    undocumented = [argument for argument in _arguments(offered) if not re.search(rf"\b{argument}\b", text)]
    assert not undocumented, (
        f"{name} does not document {', '.join(undocumented)}; add them to its docstring, or "
        "`annotated_types.doc(...)` to their annotations"
    )


def check_method_fits_its_kind(loaded: LoadedPaper) -> None:
    """The method has the members of its kind's interface (:mod:`porism.kinds.protocols`)."""
    offered = method(loaded)
    for kind in loaded.paper.kinds:
        interfaces = INTERFACES[kind]
        lacking = [[name for name in members(interface) if not hasattr(offered, name)] for interface in interfaces]
        assert any(not names for names in lacking), (
            f"{loaded.paper.method or 'the method'} is to be of kind {kind!r}, but lacks {', '.join(lacking[0])}; "
            f"see porism.kinds.protocols.{interfaces[0].__name__}"
        )


def check_needs_cover_imports(loaded: LoadedPaper) -> None:
    """Every optional package that importing the file requires is declared in ``PAPER.needs``."""
    declared = {_normal(name) for extra in loaded.paper.needs for name in distributions_of(extra)}
    optional = {extra: {_normal(name) for name in distributions_of(extra)} for extra in EXTRAS}
    owners = packages_distributions()
    for module, _ in sorted(foreign_imports(loaded.path, loaded.module.__name__)):
        top = module.partition(".")[0]
        for owner in map(_normal, owners.get(top, ())):
            bringing = [extra for extra in EXTRAS if owner in optional[extra]]
            assert not bringing or owner in declared, (
                f"the file imports {top}, which a plain porism does not bring; "
                f"add {bringing[0]!r} to PAPER.needs, or import it where it is used"
            )


def check_names_are_used_once(loaded: LoadedPaper) -> None:
    """No claim or figure is lost because something further down in the file has its name."""
    declared = Counter(declared_names(loaded.path.read_bytes()))
    kept = {*loaded.claims, *loaded.figures}
    lost = [name for name, count in declared.items() if count > 1 or name not in kept]
    assert not lost, (
        f"{', '.join(lost)}: something further down has the same name, and the claim or figure is lost; rename it"
    )


def check_import_is_silent(loaded: LoadedPaper) -> None:
    """Importing the file prints nothing on stdout, which belongs to the command that imports it."""
    seen = probe(loaded)
    assert not seen.error, f"in a fresh process the import fails: {seen.error}"
    assert not seen.printed, f"importing the file prints {seen.printed[:80]!r}; remove the print, or log to stderr"


def check_import_keeps_global_state(loaded: LoadedPaper) -> None:
    """Importing the file changes no generator, dtype, thread count, environment, filter or working directory."""
    seen = probe(loaded)
    assert not seen.changed, (
        f"importing the file changes {', '.join(seen.changed)}; do it inside a function, and undo it there"
    )


def check_committed_verdicts(loaded: LoadedPaper) -> None:
    """The verdict file beside the paper can be read, speaks of the claims as they are, and has none void."""
    path = verdict_file(loaded.path)
    if not path.exists():
        return
    key = loaded.paper.key
    try:
        committed = latest(verdict for verdict in read_verdicts(path) if verdict.root == ROOT)
    except PorismError as error:
        raise AssertionError(f"{error}; restore the file from version control") from error
    for name, claim in loaded.claims.items():
        verdict = committed.get(name)
        assert verdict is not None, f"claim {name} has no committed verdict; run `porism check {key} --commit`"
        assert verdict.hash == claim.hash, (
            f"the committed verdict of {name} is about other wording or code; run `porism check {key} --commit`"
        )
        assert verdict.outcome != "void", f"the committed verdict of {name} is void ({verdict.reason}); mend the claim"


def _arguments(offered: Callable[..., Any]) -> list[str]:
    """Names that a caller passes and that no ``doc(...)`` annotation explains."""
    try:
        explained = {name for name, parameter in parameters_of(offered).items() if parameter.doc}
    except (ParameterError, NameError, TypeError):
        explained = set()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    arguments = inspect.signature(offered).parameters.values()
    return [a.name for a in arguments if a.kind not in variadic and a.name not in {*explained, "rng", "self"}]


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
