"""The ledger keeps its false-discovery rate: exactly where that can be computed, by simulation where it cannot."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porism.check import Subject, check
from porism.ledger import summarise_ledger
from porism.stats import SignTest, e_bh, power, sign_e_value

FALSE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "false_discoveries.py")))


def ends(chance: float, cap: int = 64) -> dict[SignTest, float]:
    """Where the sign test stops, with exact probabilities."""
    alive, ended = {SignTest(): 1.0}, dict[SignTest, float]()
    while alive:
        after: dict[SignTest, float] = {}
        for test, weight in alive.items():
            for sign, share in ((True, chance), (False, 1 - chance)):
                then = test.after(sign, cap=cap)
                into = after if then.outcome is None else ended
                into[then] = into.get(then, 0.0) + weight * share
        alive = after
    return ended


@pytest.mark.parametrize("cap", [7, 64, 200])
@pytest.mark.parametrize("chance", [0.5, 0.4, 0.3, 0.0])
def test_the_e_value_of_a_null_claim_is_at_most_one_on_average_when_it_stops(chance: float, cap: int) -> None:
    """All that e-BH asks of its e-values, so its 5 % is a theorem for any dependence between claims."""
    expected = sum(weight * test.e_value for test, weight in ends(chance, cap).items())
    assert expected <= 1 + 1e-9
    if chance == 0.5:
        assert expected == pytest.approx(1)


@given(st.integers(0, 2**64 - 1), st.sampled_from([0.2, 0.5, 0.6, 0.9, 1.0]))
def test_the_table_of_the_stopping_rule_is_the_sign_test(seed: int, chance: float) -> None:
    signs = np.random.default_rng(seed).random((20, 64)) < chance
    settled = FALSE.settle(signs)
    for i, row in enumerate(signs):
        test = SignTest.of(row, cap=64)
        assert (settled.holds[i], settled.trials[i]) == (test.outcome == "holds", test.trials)
        assert settled.e_value[i] == test.e_value


def test_a_null_claim_holds_as_often_as_computed() -> None:
    rng = np.random.default_rng(0)
    rates = FALSE.simulate(rng, ledgers=400, claims=100, true=0.5, null=0.5, dependence="independent")
    exact, n = power(0.5).holds, 400 * 50
    assert exact < 0.0065
    assert rates.false_claims.mean() == pytest.approx(exact, abs=4 * math.sqrt(exact / n))
    assert FALSE.interval(rates.false_discoveries)[1] < 0.05
    assert rates.kept.mean() > 0.9
    assert rates.naive_false_discoveries.mean() > 0.05  # the same signs, read without care


def test_null_claims_of_one_coin_are_all_found_or_none() -> None:
    """The worst dependence of an all-null ledger has an exact rate: that of one claim that reaches 20."""
    rates = FALSE.simulate(np.random.default_rng(1), ledgers=3000, claims=20, true=0, null=0.5, dependence="one coin")
    exact = sum(weight for test, weight in ends(0.5).items() if test.e_value >= 20)
    assert exact == pytest.approx(power(0.5).holds)
    assert set(rates.false_discoveries) <= {0.0, 1.0}
    low, high = FALSE.interval(rates.false_discoveries)
    assert low <= exact <= high < 0.05


def test_blocks_share_their_random_numbers() -> None:
    signs = FALSE.draw_signs(np.random.default_rng(2), np.full((3, 25), 0.5), "blocks")
    assert signs.shape == (3, 25, 64)
    assert (signs[:, 0] == signs[:, 9]).all()
    assert not (signs[:, 9] == signs[:, 10]).all()


def test_keeping_the_best_of_twenty_roots_would_break_the_rate() -> None:
    """Why only the default root counts in the ledger."""
    rng = np.random.default_rng(3)
    setting = {"claims": 100, "true": 0.5, "null": 0.5, "dependence": "independent"}
    once = FALSE.simulate(rng, ledgers=60, **setting)
    best = FALSE.simulate(rng, ledgers=60, roots=20, **setting)
    assert once.false_discoveries.mean() < 0.05 < best.false_discoveries.mean()
    assert best.false_claims.mean() == pytest.approx(1 - (1 - power(0.5).holds) ** 20, abs=0.03)


def test_too_few_true_claims_are_not_kept() -> None:
    """Sampling stops near E = 100, which e-BH keeps only where about one claim in five holds."""
    straight = SignTest.of([True] * 64, cap=64).e_value
    assert [e_bh([straight] * k + [0.0] * (100 - k)).sum() for k in (19, 20)] == [0, 20]
    largest = max(test.e_value for test in ends(0.5))
    assert e_bh([largest] * 12 + [0.0] * 88).sum() == 0


def test_an_interval_covers_the_mean_of_proportions() -> None:
    assert FALSE.interval(np.zeros(2000)) == (0.0, pytest.approx(1 - 0.025 ** (1 / 2000)))
    low, high = FALSE.interval(np.array([0.5, 0.0] * 50))
    assert low < 0.25 < high


def test_the_simulation_and_the_engine_agree_on_a_small_ledger(tmp_path: Path) -> None:
    path = FALSE.write_paper(tmp_path, nulls=6, trues=3)
    found, holds, null = FALSE.check_paper(path, 0)
    verdicts = check([Subject.of(str(path))], engine="serial")  # all recorded, nothing runs
    assert null.tolist() == [True] * 6 + [False] * 3
    assert holds[~null].all()
    assert summarise_ledger(verdicts).tested == 9
    for verdict in verdicts:
        assert verdict.main.e_value == sign_e_value(verdict.main.positive, verdict.main.cases)
        assert verdict.control.outcome == "refuted"
    assert found.sum() == summarise_ledger(verdicts).survivors
