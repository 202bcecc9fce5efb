"""How often the search refutes each planted claim, and after how many cases: the table of its power.

python tests/planted/power.py --roots 40

The search is the one of `porism check` (100 cases) and `porism explore` (500), in this process and without records.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from porism.claims import Claim
from porism.registry import LoadedPaper, load
from porism.search import search
from porism.seeds import generator

FOLDER = Path(__file__).parent
CHECK, EXPLORE = 100, 500
TWIN = "_mended"


class Hunt(NamedTuple):
    """One search: what it found, and how many cases it looked at until the first failure (None without one)."""

    counterexample: Mapping[str, Any] | None
    needed: int | None


def planted() -> list[LoadedPaper]:
    """Every planted paper."""
    return [load(str(path)) for path in sorted(FOLDER.glob("*.py")) if "\nPAPER = Paper(" in path.read_text()]


def pairs(loaded: LoadedPaper) -> Iterator[tuple[Claim, Claim]]:
    """Each false claim with its mended twin."""
    for name, claim in loaded.claims.items():
        if not name.endswith(TWIN):
            yield claim, loaded.claims[name + TWIN]


def margin(key: str, claim: Claim, parameters: Mapping[str, Any], case: int, root: int) -> float:
    """The margin at one point; a claim that raises or returns no finite number has failed there."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            if claim.rung == "proved":
                from porism.symbolic import numeric_margin

                return claim.effect(numeric_margin(claim, "main", parameters))[0]
            return claim.effect(claim(generator(root, key, claim.name, case), **parameters))[0]
    except (ValueError, ZeroDivisionError, FloatingPointError):
        return -np.inf


def hunt(key: str, claim: Claim, *, root: int, cap: int) -> Hunt:
    """Search one claim as `check` and `explore` do."""
    margins: list[float] = []

    def evaluate(parameters: Mapping[str, Any], case: int, root: int) -> dict[str, Any]:
        margins.append(margin(key, claim, parameters, case, root))
        return {"status": "ok", "effect": margins[-1], "parameters": dict(parameters), "case": case, "root": root}

    task = {"arm": "main", "root": root, "cap": cap, "known": (), "replay": ()}
    found = search(claim, task, evaluate)["counterexample"]
    return Hunt(found, next((n for n, value in enumerate(margins, 1) if value <= claim.at_least), None))


def table(roots: int) -> Iterator[str]:
    """One line a pair; the twin is searched with the larger budget."""
    yield f"| paper | claim | refuted in {CHECK} cases | in {EXPLORE} | cases needed (median) | twin refuted in {EXPLORE} |"
    yield "|---|---|--:|--:|--:|--:|"
    for loaded in planted():
        key = loaded.paper.key
        for claim, twin in pairs(loaded):
            if claim.rung != "typically":
                short, long, mended = (
                    [hunt(key, one, root=root, cap=cap) for root in range(roots)]
                    for one, cap in ((claim, CHECK), (claim, EXPLORE), (twin, EXPLORE))
                )
                counts = [sum(h.counterexample is not None for h in hunts) for hunts in (short, long, mended)]
                needed = statistics.median_high(h.needed or EXPLORE + 1 for h in long)
                cells = [f"{n}/{roots}" for n in counts[:2]] + [str(needed) if needed <= EXPLORE else "–"]
                yield f"| {key.removeprefix('planted_')} | {claim.name} | {' | '.join(cells)} | {counts[2]}/{roots} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--roots", type=int, default=40)
    for line in table(parser.parse_args().roots):
        print(line, flush=True)


if __name__ == "__main__":
    main()
