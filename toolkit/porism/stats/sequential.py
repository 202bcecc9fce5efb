"""A sign test that may be looked at after every replicate.

Under the null hypothesis P(success) <= 1/2 the wealth of a gambler who bets on success is a
supermartingale, so by Ville's inequality it ever reaches 20 with probability at most 1/20. The gambler
spreads the stake uniformly over the success probabilities q in [1/2, 1]:

    E(k, n) = 2 * integral over [1/2, 1] of (2 q)^k (2 (1 - q))^(n - k) dq
            = sum_{j <= k} C(n + 1, j) / ((n + 1) C(n, k)),

the second line by writing the incomplete beta function as a binomial tail (derived in
tests/core/test_stats.py against quadrature), which makes every e-value an exact rational.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

# Evidence at which a claim is refuted, or holds at its cap: an error rate of one in twenty.
SETTLED = 20.0
# Evidence at which sampling stops before the cap because the claim holds. It is more than 20, so that the claim
# survives e-BH at 5 % as long as a fifth of the ledger's claims hold: at 20 a few refuted neighbours would take
# every discovery away.
LEDGER = 100.0

Outcome = Literal["holds", "refuted", "inconclusive"]


def sign_e_value(successes: int, trials: int) -> float:
    """Evidence that P(success) > 1/2, as an e-value in (0, inf).

    Parameters
    ----------
    successes, trials
        Counts with ``0 <= successes <= trials``.

    Examples
    --------
    >>> sign_e_value(7, 7)
    31.875
    >>> sign_e_value(0, 0)
    1.0
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in [0, trials={trials}], got {successes}")
    return _sign_e_value(int(successes), int(trials))  # numpy's integers would overflow


@functools.cache
def _sign_e_value(successes: int, trials: int) -> float:
    tail = sum(math.comb(trials + 1, j) for j in range(successes + 1))
    return tail / ((trials + 1) * math.comb(trials, successes))


@dataclasses.dataclass(frozen=True, slots=True)
class SignTest:
    """State of the two-sided sequential sign test after ``trials`` replicates.

    It stops as *holds* when the evidence for reaches :data:`LEDGER`, as *refuted* when the evidence against reaches
    :data:`SETTLED`, and at the cap as *holds* if the evidence for is then at least :data:`SETTLED`, else as
    *inconclusive*. Until then ``outcome`` is None.

    Examples
    --------
    >>> SignTest.of([True] * 12, cap=64)
    SignTest(successes=9, trials=9, outcome='holds')
    >>> SignTest.of([False] * 12, cap=64)
    SignTest(successes=0, trials=7, outcome='refuted')
    >>> SignTest.of([True, False] * 10, cap=20).outcome
    'inconclusive'
    """

    successes: int = 0
    trials: int = 0
    outcome: Outcome | None = None

    @classmethod
    def of(cls, signs: Iterable[bool], *, cap: int) -> SignTest:
        """Take signs in order until the test stops."""
        test = cls()
        for sign in signs:
            if test.outcome is not None:
                break
            test = test.after(sign, cap=cap)
        return test

    def after(self, sign: bool, *, cap: int) -> SignTest:
        """The state after one more replicate."""
        successes, trials = self.successes + bool(sign), self.trials + 1
        evidence = sign_e_value(successes, trials)
        outcome: Outcome | None = None
        if evidence >= LEDGER or (trials >= cap and evidence >= SETTLED):
            outcome = "holds"
        elif sign_e_value(trials - successes, trials) >= SETTLED:
            outcome = "refuted"
        elif trials >= cap:
            outcome = "inconclusive"
        return SignTest(successes, trials, outcome)

    @property
    def e_value(self) -> float:
        """Evidence for P(success) > 1/2."""
        return sign_e_value(self.successes, self.trials)

    @property
    def fewest_more(self) -> int:
        """How many replicates it takes at the least until the test can stop before its cap.

        Running exactly this many before looking again wastes none, on any number of workers.

        Examples
        --------
        >>> SignTest().fewest_more, SignTest(7, 7).fewest_more, SignTest(6, 7).fewest_more
        (7, 2, 7)
        """
        failures = self.trials - self.successes
        more = 0
        while True:
            trials = self.trials + more
            holds = sign_e_value(self.successes + more, trials) >= LEDGER
            if holds or sign_e_value(failures + more, trials) >= SETTLED:
                return more
            more += 1


class Power(NamedTuple):
    """Exact operating characteristics of the test at one success probability."""

    holds: float
    refuted: float
    inconclusive: float
    replicates: float


def power(success_probability: float, *, cap: int = 64) -> Power:
    """Probabilities of the three outcomes and the expected number of replicates, by dynamic programming.

    Examples
    --------
    >>> round(power(0.5).holds, 3), round(power(0.95).holds, 3), round(power(0.95).replicates, 1)
    (0.006, 1.0, 11.5)
    """
    if not 0 <= success_probability <= 1:
        raise ValueError(f"success_probability must be in [0, 1], got {success_probability}")
    alive = {SignTest(): 1.0}
    ended = {"holds": 0.0, "refuted": 0.0, "inconclusive": 0.0}
    replicates = 0.0
    while alive:
        replicates += sum(alive.values())
        after: dict[SignTest, float] = {}
        for test, weight in alive.items():
            for sign, chance in ((True, success_probability), (False, 1 - success_probability)):
                then = test.after(sign, cap=cap)
                if then.outcome:
                    ended[then.outcome] += weight * chance
                elif weight * chance > 0:
                    after[then] = after.get(then, 0.0) + weight * chance
        alive = after
    return Power(**ended, replicates=replicates)
