"""Policy mirror descent with the mean reward for the log-partition: which step it really takes.

The paper (arXiv:2602.05933) studies the rule behind Kimi K1.5 and K2: regress the log-ratio of the new policy to the
old one on ``(reward - mean reward) / temperature`` (*PMD-mean*), where the mirror-descent step would have the
log-partition (*PMD-part*). Its solution is a Lambert W of the reward, and the mirror-descent step with a chi-square
penalty beside KL, whose weight ``lambda`` it finds itself: ``KL(old || new)``. The abstract was read, the theorems were
not: formulas are derived and checked in ``tests/papers/test_pmd_mean.py`` ("derived"). The convergence theorem was not
seen, and results on language models are out of reach here.

*What the checks find.* The fixed point, its two meanings and its conservatism hold. The mean is the better baseline
only while successes are rare in a group (``explore --beyond`` finds up to how many). No update of either rule loses
reward in a bandit whose rewards are right; where some are wrong PMD-mean ends higher, but not by losing less often.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import numpy as np
import sympy
from annotated_types import Interval

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism.divergences import kl_divergence_logits, pearson_chi2
from porism_sims import policy_regression as sim
from porism_sims.policy_regression import simulate
from porism_theory.planning import _regression_engine as theory
from porism_theory.planning import _regression_figures as figures

PAPER = Paper(
    key="pmd_mean",
    title="Approximation of Log-Partition Function in Policy Mirror Descent Induces Implicit Regularization "
    "for LLM Post-Training",
    authors=("Zhenghao Xu", "Qin Lu", "Changlong Yu", "Tuo Zhao"),
    year=2026,
    ref="arXiv:2602.05933",
    kinds=("simulator",),
    family="planning",
    needs=("theory",),
    tags=("policy mirror descent", "reinforcement learning", "regularisation", "language models"),
    method="simulate",
)

Rng = np.random.Generator
Answers = Annotated[int, Interval(ge=2, le=12)]
Spread = Annotated[float, Interval(ge=0, le=3)]
Temperature = Annotated[float, Interval(ge=0.02, le=10)]
Success = Annotated[float, Interval(ge=0.01, le=0.99)]
Factor = Annotated[float, Interval(ge=0.1, le=10)]
Scale = Literal["quick", "paper"]
Step = Literal["mean", "partition"]


@proved("Regression and reward - tau (KL + lambda / 2 chi2) are stationary at one policy, for lambda = KL(old || new)",
        where="derived", control={"direction": "new || old"})  # fmt: skip
def one_step_of_two_kinds(*, success: Success = 0.1, new_success: Success = 0.5, temperature: Temperature = 0.1,
                          direction: Literal["old || new", "new || old"] = "old || new") -> Any:  # fmt: skip
    """Two answers, at any new policy: the gap of their rewards that makes one objective stationary does the other."""
    p, q, x = success, new_success, sympy.Symbol("x", positive=True)
    new, pair = ((x, p), (1 - x, 1 - p)), ((q, p), (1 - q, 1 - p))
    weight = sum((a if direction == "new || old" else -b) * sympy.log(a / b) for a, b in pair)
    penalty = sum(a * sympy.log(a / b) + weight / 2 * (a - b) ** 2 / b for a, b in new)
    gap = sympy.diff(penalty, x).subs(x, q)  # in temperatures: the slope in x of the reward x gap
    loss = p * ((1 - p) * gap - sympy.log(x / p)) ** 2 + (1 - p) * (-p * gap - sympy.log((1 - x) / (1 - p))) ** 2
    return sympy.Eq(sympy.expand(temperature * sympy.diff(loss, x).subs(x, q)), 0)


@always("The Lambert form minimises the regression (to 1e-6 in probability), and maximises reward - tau KL - tau "
        "lambda / 2 chi2 (to 1e-4)", where="abstract", control={"step": "partition"})  # fmt: skip
def lambert_solves_both(rng: Rng, *, answers: Answers = 4, spread: Spread = 1.0, temperature: Temperature = 0.1,
                        binary: bool = False, step: Step = "mean") -> float:  # fmt: skip
    """Against a search over logits; the control is the mirror-descent step."""
    given = theory.prompt(rng, answers, spread, binary=binary)
    ours = sim.regression_step(*given, temperature=temperature)
    policy = ours.policy if step == "mean" else sim.partition_step(*given, temperature=temperature).policy
    first = np.abs(theory.regress_numerically(*given, temperature) - policy).max()
    second = np.abs(theory.regularise_numerically(*given, temperature, ours.multiplier) - policy).max()
    return float(min(1e-6 - first, 1e-4 - second))


@always("Unless rewards agree lambda = KL(old || new) > 0, better answers gain more, no log-ratio exceeds its target, "
        "and the reward's unit and offset do not matter", where="derived", control={"rescaled": False})  # fmt: skip
def properties_of_the_step(rng: Rng, *, answers: Answers = 4, spread: Spread = 1.0, temperature: Temperature = 0.1,
                           binary: bool = False, offset: Annotated[float, Interval(ge=-100, le=100)] = 1.0,
                           unit: Factor = 10.0, rescaled: bool = True) -> float:  # fmt: skip
    """To 1e-8 of the largest target and 1e-6 of lambda; the control leaves the temperature in the old unit."""
    policy, reward = theory.prompt(rng, answers, spread, binary=binary)
    step = sim.regression_step(policy, reward, temperature=temperature)
    same = {"temperature": temperature * (unit if rescaled else 1.0)}
    moved = np.abs(sim.regression_step(policy, unit * reward + offset, **same).log_ratio - step.log_ratio).max()
    rising, most = np.diff(step.log_ratio[np.argsort(reward)]).min(), (reward - policy @ reward) / temperature
    divergence = kl_divergence_logits(np.log(policy), np.log(policy) + step.log_ratio)
    whole = min(1e-6 - abs(divergence / step.multiplier - 1), step.multiplier, 1e-8 - abs(step.policy.sum() - 1))
    size = 1 + (1 + abs(offset) / unit) / temperature
    return float(min(1e-8 * size + min(rising, (most - step.log_ratio).min(), -moved), whole))


@always("The reward gained is tau (KL(new || old) + KL(old || new) + lambda chi2), at least tau (KL(new || old) "
        "+ lambda / 2 chi2), for every baseline up to the log-partition", where="derived", control={"factor": 3.0},
        beyond={"baseline_share": Interval(ge=-3, le=2)})  # fmt: skip
def reward_rises(rng: Rng, *, answers: Answers = 4, spread: Spread = 1.0, temperature: Temperature = 0.1,
                 binary: bool = False, baseline_share: Annotated[float, Interval(ge=-3, le=1)] = 0.0,
                 factor: Factor = 1.0) -> float:  # fmt: skip
    """The baseline goes from the mean (0) to the log-partition (1), where lambda becomes 0; what n rollouts err by is
    an error of the baseline, and above 1 a solution soon ceases to exist. The control asks for three times the bound.
    """
    policy, reward = theory.prompt(rng, answers, spread, binary=binary)
    mean, partition = policy @ reward, sim.log_partition(policy, reward, temperature=temperature)
    baseline = mean + baseline_share * (partition - mean)
    step = sim.regression_step(policy, reward, temperature=temperature, baseline=baseline)
    old, new = np.log(policy), np.log(policy) + step.log_ratio
    forward, backward = kl_divergence_logits(new, old), kl_divergence_logits(old, new)
    squared = step.multiplier * pearson_chi2(step.policy, policy, normalize=True)
    gained, told = (step.policy - policy) @ reward / temperature, forward + backward + squared
    return float(min((gained - factor * (forward + squared / 2)) / gained, 1e-5 - abs(told / gained - 1)))


@always("Wrong answers are suppressed less than by the mirror-descent step", where="abstract",
        control={"step": "partition"})  # fmt: skip
def conservative_with_wrong_answers(rng: Rng, *, success: Annotated[float, Interval(ge=0.001, le=0.999)] = 0.1,
                                    temperature: Temperature = 0.05, step: Step = "mean") -> float:  # fmt: skip
    ours, exact = (theory.binary_step(success, temperature, baseline=which).wrong for which in (step, "partition"))
    return 1 - ours / exact


@always("For tau <= 0.02 and success p in [0.1, 0.9]: lambda is p (1 - p) / tau, right answers have log-ratio log 1/p, "
        "wrong ones -p / tau, which is p times the mirror-descent step's, all to 10 %", where="derived",
        control={"law": "partition"},
        beyond={"temperature": Interval(ge=0.005, le=0.5), "success": Interval(ge=0.01, le=0.99)})  # fmt: skip
def small_temperature_laws(rng: Rng, *, temperature: Annotated[float, Interval(ge=0.005, le=0.02)] = 0.02,
                           success: Annotated[float, Interval(ge=0.1, le=0.9)] = 0.5,
                           law: Step = "mean") -> float:  # fmt: skip
    """The control has the mirror-descent step's limits."""
    ours, exact = (theory.binary_step(success, temperature, baseline=which) for which in ("mean", "partition"))
    limit = theory.binary_limit(success, temperature, baseline=law)
    ratios = (limit.multiplier / ours.multiplier, ours.right / limit.right, ours.wrong / limit.wrong,
              ours.wrong / exact.wrong / success)  # fmt: skip
    return float(0.1 - np.abs(np.array(ratios) - 1).max())


@always("At temperatures of 100 rewards and more both steps agree, to 1e-4 in probability", where="abstract",
        control={"reward_scale": 1000}, beyond={"temperature": Interval(ge=0.1, le=10_000)})  # fmt: skip
def agree_at_large_temperature(rng: Rng, *, temperature: Annotated[float, Interval(ge=100, le=10_000)] = 100.0,
                               answers: Answers = 4, spread: Spread = 1.0, binary: bool = False,
                               reward_scale: Literal[1, 1000] = 1) -> float:  # fmt: skip
    policy, reward = theory.prompt(rng, answers, spread, binary=binary)
    rules = sim.regression_step, sim.partition_step
    ours, exact = (rule(policy, reward_scale * reward, temperature=temperature).policy for rule in rules)
    return float(1e-4 - np.abs(ours - exact).max())


@always("Leave-one-out advantages sum to 0, and the first gradient step of the regression is REINFORCE's",
        where="Trainer's loss", control={"baseline": "partition"})  # fmt: skip
def first_step_is_reinforce(rng: Rng, *, answers: Answers = 4, spread: Spread = 1.0, temperature: Temperature = 0.1,
                            rollouts: Annotated[int, Interval(ge=2, le=32)] = 16, baseline: Step = "mean",
                            ) -> float:  # fmt: skip
    policy, reward = theory.prompt(rng, answers, spread)
    logits, drawn = np.log(policy)[None], rng.integers(answers, size=(1, rollouts))
    advantages = sim.leave_one_out(reward[drawn], temperature=temperature, baseline=baseline)
    moved = sim.fit(logits, drawn, advantages, temperature=temperature, step_size=1.0, steps=1) - logits
    gradient = np.bincount(drawn[0], advantages[0], answers) / rollouts - policy * advantages.mean()
    return float(1e-9 - max(abs(advantages.sum()), np.abs(np.diff(moved[0] - gradient)).max()))


@always("While a group has at most one success in the mean, the mean errs less for a baseline than the partition",
        where="derived", control={"estimator": "mean"},
        beyond={"expected_successes": Interval(ge=0.001, le=16)})  # fmt: skip
def mean_errs_less_while_successes_are_rare(
    rng: Rng, *, expected_successes: Annotated[float, Interval(ge=0.001, le=1)] = 0.5,
    rollouts: Annotated[int, Interval(ge=17, le=256)] = 32,
    temperature: Annotated[float, Interval(ge=0.005, le=0.05)] = 0.02, estimator: Step = "partition",
) -> float:  # fmt: skip
    """Logarithm of the ratio of their root mean squares, which are exact sums over the number of successes."""
    found = theory.baseline_deviations(expected_successes / rollouts, rollouts, temperature)
    return float(np.log(getattr(found, estimator) / found.mean))


@typically("Fewer updates lose expected reward with the mean than with the partition for baseline", where="abstract",
           control={"ours": "partition"}, at_least=0.02,
           scale="50 answers, 5 % right, 1 reward in 10 wrong, 16 rollouts, tau=0.05; 20 updates of 20 bandits",
           )  # fmt: skip
def fewer_updates_lose_reward(rng: Rng, *, ours: Step = "mean") -> Paired:
    """Refuted: PMD-part settles on few answers at once and has little to lose afterwards. At last a bandit's reward is
    about 0 or 1 with either, so that its variance, which the card names as well, only says how often it is 1."""
    return paired(theory.share_of_losses, rng, ours={"method": ours}, theirs={"method": "partition"}, better="lower")


@typically("With wrong rewards, training ends higher with the mean than with the partition for baseline",
           where="abstract", control={"ours": "partition"}, at_least=0.05,
           scale="50 answers, 5 % right, 1 reward in 5 wrong, 16 rollouts, tau=0.05; 20 updates of 100 bandits",
           )  # fmt: skip
def higher_where_rewards_err(rng: Rng, *, ours: Step = "mean") -> Paired:
    """Stated after the claim above was refuted: what is robust is the outcome, not each update."""
    return paired(theory.final_reward, rng, ours={"method": ours}, theirs={"method": "partition"})


@typically("From 1 to 16 gradient steps on each group, PMD-mean loses less reward than unclipped REINFORCE",
           where="abstract", control={"ours": "reinforce"}, at_least=0.05,
           scale="50 answers, 5 % right, 1 reward in 5 wrong, 16 rollouts, tau=0.05; 20 updates of 100 bandits",
           )  # fmt: skip
def old_rollouts_hurt_less(rng: Rng, *, ours: Literal["mean", "reinforce"] = "mean") -> Paired:
    """Steps of 1 / tau, the longest that descend safely; their first is the same for both."""

    def loss_by_reuse(rng: Rng, method: sim.Method) -> float:
        rule: dict[str, Any] = {"method": method, "noise": 0.2, "step_size": 20.0, "repetitions": 100}
        once = simulate(copy.deepcopy(rng), **rule, inner_steps=1)["reward"]
        return float(np.mean(once - simulate(rng, **rule, inner_steps=16)["reward"], axis=0)[-1])

    return paired(loss_by_reuse, rng, ours={"method": ours}, theirs={"method": "reinforce"}, better="lower")


@figure("Ratio of the new policy to the old one against reward; lines: exact, dots: fits to 4096 rollouts +-2 s.e.; "
        "dashed: mirror-descent step", where="derived")  # fmt: skip
def ratio_against_reward(rng: Rng, *, scale: Scale = "quick") -> Table:
    """21 answers, equally likely, with rewards from 0 to 1."""
    return figures.ratios(rng, scale)


@figure("The weight lambda and the suppression of wrong answers against success rate; dots: fits to 1024 rollouts "
        "+-2 s.e.; dashed: small-temperature limits; dotted: mirror-descent step", where="abstract")  # fmt: skip
def success_rate(rng: Rng, *, scale: Scale = "quick") -> Table:
    """Two answers; wrong ones are suppressed p times as much as by the mirror-descent step."""
    return figures.successes(rng, scale)


@figure("Error of the baseline of 16 rollouts, in units of the target, tau = 0.05; dots: simulated +-2 s.e.",
        where="derived")  # fmt: skip
def baseline_errors(rng: Rng, *, scale: Scale = "quick") -> Table:
    """Without a success the partition misses by the whole log-partition; with several it is the better one."""
    return figures.deviations(rng, scale)


@figure("Expected reward +-2 s.e. against updates, with a share of the rewards wrong; tau = 0.05", where="abstract")
def noise(rng: Rng, *, scale: Scale = "quick") -> Table:
    """50 answers of which 5 % are right, 16 rollouts in an update, each group fitted to its end."""
    return figures.noises(rng, scale)


@figure("Final reward +-2 s.e. where rollouts are used again, and where they come late; tau = 0.05", where="abstract")
def staleness(rng: Rng, *, scale: Scale = "quick") -> Table:
    """One reward in five is wrong, and gradient steps are as long as descend safely."""
    return figures.stale(rng, scale)


ratio_against_reward.draw(figures.draw_ratios)
success_rate.draw(figures.draw_successes)
baseline_errors.draw(figures.draw_deviations)
noise.draw(figures.draw_noises)
staleness.draw(figures.draw_stale)
