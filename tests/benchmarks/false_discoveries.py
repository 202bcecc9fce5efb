"""The ledger's false-discovery rate, measured on simulated ledgers whose truth is known.

    python tests/benchmarks/false_discoveries.py --ledgers 2000 --seed 0 --end-to-end 20

Everything from the signs of replicates on is porism's own: stopping rule, e-values, e-BH. Only the loop over
replicates is vectorised, from a table of the stopping rule that :class:`porism.stats.SignTest` fills in itself;
tests/core/test_false_discoveries.py holds both against each other. ``--end-to-end`` adds a generated paper that goes
through the real engine, with its processes, records and controls, under that many root seeds.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, binom

from porism.stats import SignTest, e_bh, sign_e_value

CAP = 64
LEVEL = 0.05
OUTCOMES = ("", "holds", "refuted", "inconclusive")
DEPENDENCE = ("independent", "blocks", "one coin")
BLOCK = 10


class Settled(NamedTuple):
    """What each claim of many came to; all of the shape of the claims."""

    holds: np.ndarray
    trials: np.ndarray
    e_value: np.ndarray


@functools.cache
def stopping_rule(cap: int = CAP) -> np.ndarray:
    """Index into OUTCOMES after n trials with k successes, shape (cap + 1, cap + 1), by the sign test itself."""
    rule = np.zeros((cap + 1, cap + 1), dtype=np.int8)
    for trials in range(1, cap + 1):
        for k in range(trials + 1):
            last = k == trials  # the sign by which the test gets there; any other path ends the same
            test = SignTest(k - last, trials - 1).after(last, cap=cap)
            rule[trials, k] = OUTCOMES.index(test.outcome or "")
    return rule


@functools.cache
def evidence(cap: int = CAP) -> np.ndarray:
    """The e-value of k successes in n trials at [n, k]."""
    return np.array([[sign_e_value(min(k, n), n) for k in range(cap + 1)] for n in range(cap + 1)])


@functools.cache
def naive_rule(cap: int = CAP) -> np.ndarray:
    """Where somebody who looks after every replicate sees p < 0.05 in the binomial test of a fixed n."""
    n, k = np.mgrid[: cap + 1, : cap + 1]
    return (n > 0) & (binom.sf(k - 1, n, 0.5) < LEVEL)


def settle(signs: np.ndarray) -> Settled:
    """Run the sequential sign test on each row of signs, shape (..., cap)."""
    cap = signs.shape[-1]
    successes = np.cumsum(signs, axis=-1, dtype=np.int16)
    outcome = stopping_rule(cap)[np.arange(1, cap + 1), successes]
    stop = (outcome > 0).argmax(-1)
    at_stop = functools.partial(np.take_along_axis, indices=stop[..., None], axis=-1)
    holds = at_stop(outcome)[..., 0] == OUTCOMES.index("holds")
    return Settled(holds, stop + 1, evidence(cap)[stop + 1, at_stop(successes)[..., 0]])


def naive(signs: np.ndarray) -> np.ndarray:
    """Whether the naive look at p < 0.05 ever claims success, shape (...)."""
    cap = signs.shape[-1]
    successes = np.cumsum(signs, axis=-1, dtype=np.int16)
    return naive_rule(cap)[np.arange(1, cap + 1), successes].any(-1)


def chances(rng: np.random.Generator, ledgers: int, claims: int, true: float, null: float) -> np.ndarray:
    """P(margin > 0) of each claim, shape (ledgers, claims): ``null``, or uniform on [0.7, 1] for the true ones."""
    position = rng.permuted(np.tile(np.arange(claims), (ledgers, 1)), axis=1)
    return np.where(position < round(true * claims), rng.uniform(0.7, 1, (ledgers, claims)), null)


def draw_signs(rng: np.random.Generator, chance: np.ndarray, dependence: str) -> np.ndarray:
    """Signs of every replicate, shape (ledgers, claims, cap); dependent claims share their random numbers."""
    ledgers, claims = chance.shape
    sharing = {"independent": 1, "blocks": BLOCK, "one coin": claims}[dependence]
    numbers = rng.random((ledgers, -(-claims // sharing), CAP), dtype=np.float32)
    return np.repeat(numbers, sharing, axis=1)[:, :claims] < chance[..., None]


class Rates(NamedTuple):
    """Per ledger: false-discovery proportions, shares of true claims kept, and the naive ones; null claims held."""

    false_discoveries: np.ndarray
    kept: np.ndarray
    false_claims: np.ndarray
    naive_false_discoveries: np.ndarray


def proportion(found: np.ndarray, null: np.ndarray) -> np.ndarray:
    """The false share of what each ledger finds; 0 where it finds nothing."""
    return (found & null).sum(-1) / np.maximum(1, found.sum(-1))


def simulate(
    rng: np.random.Generator, *, ledgers: int, claims: int, true: float, null: float, dependence: str, roots: int = 1
) -> Rates:
    """Settle whole ledgers; with several ``roots``, a claim shows its best one."""
    parts = []
    per_part = max(1, 8000 // (claims * roots))
    for size in (min(per_part, ledgers - start) for start in range(0, ledgers, per_part)):
        chance = chances(rng, size, claims, true, null)
        drawn = [draw_signs(rng, chance, dependence) for _ in range(roots)]
        runs = [settle(signs) for signs in drawn]
        e_values = np.max([run.e_value for run in runs], axis=0)
        holds = np.any([run.holds for run in runs], axis=0)
        found = np.array([e_bh(row, LEVEL) for row in e_values])
        is_null = chance <= 0.5
        share = (found & ~is_null).sum(-1) / np.maximum(1, (~is_null).sum(-1))
        claimed = (holds & is_null).sum(-1) / np.maximum(1, is_null.sum(-1))
        peeked = np.any([naive(signs) for signs in drawn], axis=0)
        parts.append((proportion(found, is_null), share, claimed, proportion(peeked, is_null)))
    return Rates(*map(np.concatenate, zip(*parts, strict=True)))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval for the mean of values in [0, 1]: Clopper and Pearson's for a coin of that mean.

    Such values vary at most as much as the coin, so it errs on the wide side.
    """
    total, n = float(values.sum()), len(values)
    low = beta.ppf(0.025, total, n - total + 1) if total > 0 else 0.0
    high = beta.ppf(0.975, total + 1, n - total) if total < n else 1.0
    return float(low), float(high)


def percent(value: float) -> str:
    """A share in per cent, two digits where it is small."""
    return f"{100 * value:.2f}" if value < 0.0995 else f"{100 * value:.0f}"


def row(name: str, rates: Rates, *, kept: bool) -> str:
    """One line of the table."""
    low, high = interval(rates.false_discoveries)
    cells = [
        f"{percent(rates.false_discoveries.mean())} ({percent(low)} to {percent(high)})",
        percent(rates.kept.mean()) if kept else "–",
        percent(rates.false_claims.mean()),
        percent(rates.naive_false_discoveries.mean()),
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


HEAD = "FDR of e-BH, % (95 % interval) | true claims kept, % | null claims that hold, % | naive FDR, % |"


def ledgers_table(rng: np.random.Generator, ledgers: int) -> Iterator[str]:
    """Every setting, one a line."""
    yield f"| claims | true | P(margin > 0) of a null | random numbers | {HEAD}"
    yield "|--:|--:|--:|---|--:|--:|--:|--:|"
    for dependence, null, true, claims in itertools.product(DEPENDENCE, (0.5, 0.3), (0, 0.1, 0.5, 0.9), (20, 100, 300)):
        rates = simulate(rng, ledgers=ledgers, claims=claims, true=true, null=null, dependence=dependence)
        yield row(f"{claims} | {true:.0%} | {null} | {dependence}", rates, kept=true > 0)


def roots_table(rng: np.random.Generator, ledgers: int) -> Iterator[str]:
    """What it would do to keep the best of several roots, which the ledger does not."""
    yield f"| roots tried, the best kept | {HEAD}"
    yield "|--:|--:|--:|--:|--:|"
    for roots in (1, 5, 20):
        rates = simulate(rng, ledgers=ledgers, claims=100, true=0.5, null=0.5, dependence="independent", roots=roots)
        yield row(str(roots), rates, kept=True)


PAPER = """
from typing import Literal
from porism import Paper, typically
PAPER = Paper(key="generated", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")
"""
CLAIM = """
@typically("It is so", where="S", control={{"method": "off"}}, scale="one number")
def {name}(rng, *, method: Literal["on", "off"] = "on") -> float:
    return {chance} - rng.random() if method == "on" else -1.0
"""


def write_paper(folder: Path, nulls: int, trues: int, chance: float = 0.9) -> Path:
    """A paper of claims whose truth is in their names: null ones at exactly one half, true ones at ``chance``."""
    claims = [(f"null_{i}", 0.5) for i in range(nulls)] + [(f"true_{i}", chance) for i in range(trues)]
    path = folder / "generated.py"
    path.write_text(PAPER + "".join(CLAIM.format(name=name, chance=chance) for name, chance in claims))
    return path


def check_paper(path: Path, root: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Through the real engine: which claims survive e-BH, which hold, which are null."""
    from porism.check import Subject, check
    from porism.ledger import summarise_ledger

    verdicts = check([Subject.of(str(path))], engine="serial", root=root)
    found = e_bh([v.main.e_value for v in verdicts], LEVEL)
    if (survivors := summarise_ledger(verdicts).survivors) != found.sum():
        raise AssertionError(f"the ledger keeps {survivors} claims, e-BH {found.sum()}")
    holds = np.array([v.outcome == "holds" for v in verdicts])
    return found, holds, np.array([v.claim.startswith("null") for v in verdicts])


def end_to_end(roots: int, nulls: int = 40, trues: int = 20) -> str:
    """The generated paper under several roots, in a sentence."""
    results = []
    for root in range(roots):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PORISM_HOME"] = os.path.join(folder, "home")
            results.append(check_paper(write_paper(Path(folder), nulls, trues), root))
    found, holds, null = (np.array(part) for part in zip(*results, strict=True))
    false = proportion(found, null)
    low, high = interval(false)
    wrong, of = int((holds & null).sum()), int(null.sum())
    one_low, one_high = beta.ppf([0.025, 0.975], [max(wrong, 1e-9), wrong + 1], [of - wrong + 1, of - wrong])
    return (
        f"{roots} roots of {nulls} null claims (one half) and {trues} true ones (0.9) through the engine: "
        f"FDR {percent(false.mean())} % ({percent(low)} to {percent(high)}), "
        f"true claims kept {percent((found & ~null).sum() / (~null).sum())} %, "
        f"null claims that hold {wrong} of {of}, {percent(wrong / of)} % ({percent(one_low)} to {percent(one_high)})"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ledgers", type=int, default=2000, help="simulated ledgers in each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--end-to-end", type=int, default=0, metavar="ROOTS", help="roots of a real check")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    for table in (ledgers_table, roots_table):
        for line in table(rng, options.ledgers):
            print(line, flush=True)
        print()
    if options.end_to_end:
        print(end_to_end(options.end_to_end))


if __name__ == "__main__":
    main()
