"""f-divergences on logits from a part of the vocabulary: its largest entries, or a sample of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import array_api_compat.torch as xp
import numpy as np
import torch

from porism.arrays import check_count, check_generator
from porism.divergences.named import resolve
from porism.errors import ParameterError
from porism.kernels.logits import broadcast, check_logits, divergence_logits
from porism.kernels.sweep import boundary_terms

if TYPE_CHECKING:
    from porism.divergences.generators import Generator


def top_k_divergence_logits(
    generator: Generator | str,
    p_logits: torch.Tensor,
    q_logits: torch.Tensor,
    *,
    k: int,
    tail: Literal["lumped", "truncated"] = "lumped",
) -> torch.Tensor:
    """D_f(softmax(p_logits) || softmax(q_logits)) seen through the k largest entries of p.

    **Bias.** Both forms are lower bounds, ``truncated <= lumped <= D_f``, and all agree at ``k = V``. "lumped" puts
    every other entry into one bucket: that is a channel, so data processing gives the bound, and equality holds
    where p/q is constant on the tail. "truncated" leaves the tail's summands out, each of which is non-negative in
    the canonical form f(1) = f'(1) = 0; nothing then tells the student how much mass its tail should have.

    Parameters
    ----------
    generator
        An f-divergence, such as ``generator("kl")`` of :mod:`porism.divergences`, or its name.
    p_logits, q_logits
        As for :func:`porism.kernels.logits.divergence_logits`; shape ``(..., V)``.
    k
        Entries to keep, from 1 to V.
    tail
        "lumped" or "truncated".

    Returns
    -------
    torch.Tensor
        Shape ``(...)``. ``inf`` as for the full divergence, over the k entries (and the bucket).

    Raises
    ------
    ParameterError
        For an unknown divergence, inputs that do not fit, a k out of range, or an unknown tail.

    Examples
    --------
    >>> from porism.divergences.generators import generator
    >>> p_logits = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    >>> q_logits = torch.log(torch.tensor([0.25, 0.5, 0.25]))
    >>> round(float(top_k_divergence_logits(generator("kl"), p_logits, q_logits, k=1)), 4)  # of (1/2, 1/2), (1/4, 3/4)
    0.1438
    >>> round(float(top_k_divergence_logits(generator("kl"), p_logits, q_logits, k=3)), 4)  # the full one
    0.1733
    """
    generator = resolve(generator, {})
    check_logits(p_logits=p_logits, q_logits=q_logits)
    p_logits, q_logits = (_at_least_32_bits(logits) for logits in broadcast(p_logits, q_logits))
    k = check_count("k", k, 1, p_logits.shape[-1])
    if tail not in ("lumped", "truncated"):
        raise ParameterError(f"tail must be 'lumped' or 'truncated', got {tail!r}")
    index = p_logits.detach().topk(k, -1).indices
    if tail == "lumped":
        # Logits of the coarser distributions: a bucket's logit is the logsumexp of its entries.
        return divergence_logits(generator, _lumped(p_logits, index), _lumped(q_logits, index))
    log_p, log_q = (torch.log_softmax(logits, -1).gather(-1, index) for logits in (p_logits, q_logits))
    return _terms(generator, log_p, log_q).sum(-1)


def sampled_divergence_logits(
    generator: Generator | str,
    p_logits: torch.Tensor,
    q_logits: torch.Tensor,
    *,
    samples: int,
    rng: np.random.Generator,
) -> torch.Tensor:
    """An unbiased estimate of D_f(softmax(p_logits) || softmax(q_logits)) from sampled entries of the vocabulary.

    **Bias.** None, for value and gradient, when the logits are complete, because their normalisers are then exact:
    the summands are divided by the probability of drawing them, which is positive wherever a summand is not zero.
    (With logits of a part of the vocabulary only, the normalisers are too small and the estimate is that of the
    distributions restricted to this part.) Every estimate is non-negative.

    Parameters
    ----------
    generator
        An f-divergence, such as ``generator("kl")`` of :mod:`porism.divergences`, or its name.
    p_logits, q_logits
        As for :func:`porism.kernels.logits.divergence_logits`; shape ``(..., V)``.
    samples
        Entries to draw, with replacement, for each distribution.
    rng
        Where the draws come from.

    Returns
    -------
    torch.Tensor
        Shape ``(...)``. ``inf`` only if an entry with an infinite summand is drawn.

    Raises
    ------
    ParameterError
        For an unknown divergence, inputs that do not fit, fewer than one sample, or an rng that is no Generator.

    Notes
    -----
    Entries are drawn from (p + q)/2, which bounds the weights of the symmetric, bounded divergences, by one uniform
    number in each of ``samples`` equal strata of its distribution function; that has no more variance than
    independent draws.

    Examples
    --------
    >>> from porism.divergences.generators import generator
    >>> p_logits, q_logits = torch.tensor([0.0, 0.0]), torch.log(torch.tensor([0.25, 0.75]))
    >>> rng = np.random.default_rng(0)
    >>> estimate = sampled_divergence_logits(generator("kl"), p_logits, q_logits, samples=4000, rng=rng)
    >>> round(float(estimate), 2)
    0.14
    """
    generator = resolve(generator, {})
    check_logits(p_logits=p_logits, q_logits=q_logits)
    samples = check_count("samples", samples, 1)
    check_generator(rng)
    p_logits, q_logits = (_at_least_32_bits(logits) for logits in broadcast(p_logits, q_logits))
    log_p, log_q = torch.log_softmax(p_logits, -1), torch.log_softmax(q_logits, -1)
    proposal = (log_p.detach().double().exp() + log_q.detach().double().exp()) / 2
    if not bool(torch.isfinite(proposal).all()):
        raise ParameterError("p_logits and q_logits must be free of NaN and inf, with a finite entry in every row")
    cumulative = proposal.cumsum(-1)
    uniform = torch.from_numpy(rng.random((*proposal.shape[:-1], samples))).to(proposal.device)
    strata = (torch.arange(samples, dtype=torch.float64, device=proposal.device) + uniform) / samples
    # Scaled to the last sum, which is 1 but for rounding; right=True passes over entries of probability zero.
    index = torch.searchsorted(cumulative, strata * cumulative[..., -1:], right=True)
    index = index.clamp(max=proposal.shape[-1] - 1)
    weights = 1 / (samples * proposal.gather(-1, index))
    terms = _terms(generator, log_p.gather(-1, index), log_q.gather(-1, index))
    return (terms * weights.to(terms.dtype)).sum(-1)


def _at_least_32_bits(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _lumped(logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The kept logits, and the logsumexp of the others if there are any."""
    kept = logits.gather(-1, index)
    if kept.shape == logits.shape:
        return kept
    rest = logits.scatter(-1, index, -math.inf)
    # logsumexp of -inf alone has the gradient NaN
    empty = (rest == -math.inf).all(-1, keepdim=True)
    bucket = torch.where(empty, torch.zeros_like(rest), rest).logsumexp(-1, keepdim=True)
    return torch.cat([kept, torch.where(empty, torch.full_like(bucket, -math.inf), bucket)], -1)


def _terms(generator: Generator, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """q f(p/q) from logarithms, differentiable, with the limits where one is -inf."""
    either = torch.isinf(log_p) | torch.isinf(log_q)
    a, b = torch.where(either, 0.0, log_p), torch.where(either, 0.0, log_q)
    only_p, only_q = boundary_terms(generator, log_p, log_q)
    return torch.where(either, only_p + only_q, generator.perspective(a, b, a.exp(), b.exp(), xp)[0])
