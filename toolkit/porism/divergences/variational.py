"""Variational lower bounds of KL, from the values of a critic at samples of p and of q.

The bound of any other f-divergence is :meth:`porism.divergences.Generator.variational_bound`.
Gradients flow to the critic's values. At population level each is a lower bound for every critic; from finite samples
the plug-in values are not.
"""

from __future__ import annotations

import math

from porism.arrays import Array, Namespace, check_axis, check_finite, check_not_nan, check_number, floating
from porism.divergences._arrays import check_defined, log_sum_exp
from porism.divergences.evaluate import quiet
from porism.errors import ParameterError


def donsker_varadhan(critic_p: Array, critic_q: Array, *, axis: int = -1) -> Array:
    """Donsker-Varadhan lower bound of KL(p‖q): mean of T under p minus the log-mean of exp T under q.

    Parameters
    ----------
    critic_p, critic_q
        The critic T at samples of p and of q, samples along ``axis``; the two numbers of samples may differ.
    axis
        The axis of the samples.

    Returns
    -------
    Array
        Without ``axis``; at population level at most KL(p‖q), with equality for T = log p/q + constant.

    Raises
    ------
    ParameterError
        If there is a NaN or no sample, or if infinities leave inf - inf, as equal ones under p and q do.

    Notes
    -----
    Donsker and Varadhan, Asymptotic evaluation of certain Markov process expectations for large time IV, Comm. Pure
    Appl. Math. 36, 1983. The log of a mini-batch's mean biases value (upwards) and gradient: see
    :func:`donsker_varadhan_moving_average`.

    Examples
    --------
    >>> round(float(donsker_varadhan([1.0, 1.0], [0.0, 0.0, 0.0])), 6)
    1.0
    """
    xp, critic_p, critic_q = _critics(critic_p, critic_q, axis)
    return _bound(xp, critic_p, _log_mean_exp(xp, critic_q, axis), axis)


def donsker_varadhan_moving_average(
    critic_p: Array, critic_q: Array, log_average: float | None, *, rate: float = 0.01
) -> tuple[Array, float]:
    """:func:`donsker_varadhan` whose gradient divides by a moving average of E_q exp T instead of the batch's mean.

    Parameters
    ----------
    critic_p, critic_q
        The critic at samples of p and of q, shapes (n,) and (m,).
    log_average
        Logarithm of the moving average, as the last call returned it; None on the first call.
    rate
        Weight of the new batch in the average, in (0, 1].

    Returns
    -------
    value
        The plain bound of this batch; its gradient is that of mean T under p minus mean(exp T)/average under q.
    log_average
        To pass to the next call; a float, detached.

    Raises
    ------
    ParameterError
        If there is a NaN, an infinity or no sample, for shapes that do not fit, ``rate`` out of range, or a
        ``log_average`` that is no finite number.

    Notes
    -----
    Belghazi et al., Mutual information neural estimation, ICML 2018, section 3.2.

    Examples
    --------
    >>> value, log_average = donsker_varadhan_moving_average([1.0, 1.0], [0.0, 0.0], None)
    >>> float(value), log_average
    (1.0, 0.0)
    """
    rate = check_number("rate", rate, above=0, at_most=1)
    if log_average is not None:
        log_average = check_number("log_average", log_average, above=-math.inf, below=math.inf)
    xp, critic_p, critic_q = _critics(critic_p, critic_q, -1)
    check_finite(critic_p=critic_p, critic_q=critic_q)
    if critic_p.ndim != 1 or critic_q.ndim != 1:
        raise ParameterError("critic_p and critic_q must have one axis")
    log_mean = _log_mean_exp(xp, critic_q, -1)
    new = batch = float(log_mean.detach() if hasattr(log_mean, "detach") else log_mean)
    if log_average is not None and rate < 1:
        terms = (log_average + math.log1p(-rate), batch + math.log(rate))
        new = max(terms) + math.log1p(math.exp(min(terms) - max(terms)))
    value = xp.mean(critic_p, axis=-1) - log_mean
    if hasattr(value, "detach"):
        # same value; the gradient of -log(mean) is rescaled from 1/mean to 1/average
        log_mean_scaled = math.exp(batch - new) * log_mean
        value = value.detach() + _zero_with_gradient(xp.mean(critic_p, axis=-1) - log_mean_scaled)
    return value, new


def nguyen_wainwright_jordan(critic_p: Array, critic_q: Array, *, axis: int = -1) -> Array:
    """NWJ lower bound of KL(p‖q): mean of T under p minus the mean of exp(T − 1) under q.

    Parameters and errors are those of :func:`donsker_varadhan`.

    Returns
    -------
    Array
        Without ``axis``; at population level at most the Donsker-Varadhan bound, with equality with KL(p‖q) for
        T = 1 + log p/q. Without bias from finite samples, unlike the former; ``-inf`` on overflow.

    Notes
    -----
    Nguyen, Wainwright, Jordan, Estimating divergence functionals and the likelihood ratio by convex risk
    minimization, IEEE Trans. Inf. Theory 56, 2010.

    Examples
    --------
    >>> round(float(nguyen_wainwright_jordan([1.0], [1.0])), 6)
    0.0
    """
    xp, critic_p, critic_q = _critics(critic_p, critic_q, axis)
    return _bound(xp, critic_p, xp.mean(xp.exp(critic_q - 1), axis=axis), axis)


def _critics(critic_p: Array, critic_q: Array, axis: int) -> tuple[Namespace, Array, Array]:
    xp, (critic_p, critic_q) = floating(critic_p=critic_p, critic_q=critic_q)
    for name, critic in {"critic_p": critic_p, "critic_q": critic_q}.items():
        check_axis(axis, **{name: critic})
        check_not_nan(**{name: critic})
    return xp, critic_p, critic_q


def _bound(xp: Namespace, critic_p: Array, of_q: Array, axis: int) -> Array:
    with quiet():
        value = xp.mean(critic_p, axis=axis) - of_q
    check_defined("critic_p and critic_q", value)
    return value


def _log_mean_exp(xp: Namespace, x: Array, axis: int) -> Array:
    return log_sum_exp(xp, x, axis) - math.log(x.shape[axis])


def _zero_with_gradient(x: Array) -> Array:
    return x - x.detach()
