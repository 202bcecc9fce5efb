"""Consistency of several predictions for the same inputs: how far members, experts or views are apart.

Any divergence of :mod:`porism.divergences` or the squared error, between the members on a ring, all pairs of them, or
each and their mean; rows can be left out by a mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from porism.divergences import f_divergence_logits
from porism.errors import ParameterError

Form = Literal["ring", "mean", "all"]
# Of "symmetric_kl", KL(p||q) + KL(q||p), papers also take half: R-Drop and THOR do, CAMERO does not.
ALIASES = {"symmetric_kl": "jeffreys"}


def disagreement(p: Tensor, q: Tensor, divergence: str = "symmetric_kl") -> Tensor:
    """Divergence of two predictions, row by row.

    Parameters
    ----------
    p, q
        Logits, or numbers to regress for ``"mse"``, shape (..., C). Gradients flow to both.
    divergence
        ``"symmetric_kl"``: KL(p||q) + KL(q||p), the sum; ``"mse"``: the mean square of p - q over C; or the name of an
        f-divergence without parameters, such as ``"js"``, ``"kl"``, ``"reverse_kl"`` or ``"tv"``.

    Returns
    -------
    Tensor
        Shape (...), at least 0; float32 for half precision.

    Raises
    ------
    ParameterError
        For an unknown divergence, shapes that do not broadcast, NaN.

    Examples
    --------
    >>> disagreement(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0]), "mse")
    tensor(2.)
    """
    if divergence != "mse":
        return f_divergence_logits(ALIASES.get(divergence, divergence), p, q)  # type: ignore[return-value]
    dtype = torch.promote_types(p.dtype, torch.float32)
    return (p.to(dtype) - q.to(dtype)).square().mean(-1)


def consistency(
    predictions: Tensor | Sequence[Tensor],
    *,
    divergence: str = "symmetric_kl",
    form: Form = "ring",
    order: Sequence[int] | Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean divergence between members' predictions for the same inputs.

    Parameters
    ----------
    predictions
        Of M members: shape (M, ..., C), or M tensors of shape (..., C). Gradients flow to all; detach what is a target.
    divergence
        As in :func:`disagreement`.
    form
        ``"ring"``: each member and the next one in ``order``, the last and the first, M pairs; ``"all"``: all ordered
        pairs of two members; ``"mean"``: each member and the mean of the predictions (of the logits).
    order
        A permutation of the members for the ring; a new random one at each step makes the ring all pairs on average.
    mask
        Booleans of the shape (...): rows (samples or tokens) that count; all by default.

    Returns
    -------
    Tensor
        A scalar, the mean over pairs and rows: at least 0, and 0 if the members agree, for one member, or if no row
        counts. What the rows left out hold, NaN included, has no part in it.

    Raises
    ------
    ParameterError
        If there is no member, members' shapes differ, ``order`` is no permutation, ``mask`` has another shape or is not
        boolean, or ``form`` or ``divergence`` is unknown.

    Examples
    --------
    >>> members = torch.tensor([[[0.0, 0.0]], [[0.0, 2.0]], [[2.0, 2.0]]])
    >>> consistency(members, divergence="mse", form="all")
    tensor(2.6667)
    >>> consistency(members, divergence="kl", form="ring", order=[2, 0, 1])
    tensor(0.2539)
    """
    members = stacked(predictions)
    if form not in get_args(Form):
        raise ParameterError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != members.shape[1:-1]:
            raise ParameterError(
                f"mask must be boolean of shape {tuple(members.shape[1:-1])}, got {mask.dtype} of {tuple(mask.shape)}"
            )
        members = members[:, mask]
    count = len(members)
    if members.numel() == 0:
        return members.sum()
    if form == "mean":
        return disagreement(members, members.mean(0, keepdim=True).expand_as(members), divergence).mean()
    first, second = _ring(count, order) if form == "ring" else _pairs(count)
    return disagreement(members[first], members[second], divergence).mean()


def stacked(predictions: Tensor | Sequence[Tensor]) -> Tensor:
    """Members' predictions as one tensor of shape (M, ..., C).

    Raises
    ------
    ParameterError
        If there are none, their shapes differ, or they have no axis of classes.
    """
    if not isinstance(predictions, Tensor):
        shapes = sorted({tuple(p.shape) for p in predictions})
        if len(shapes) != 1:
            raise ParameterError(f"predictions must be of one shape and of one member at least, got shapes {shapes}")
        predictions = torch.stack(list(predictions))
    if predictions.dim() < 2 or len(predictions) == 0:
        raise ParameterError(f"predictions must have shape (members, ..., classes), got {tuple(predictions.shape)}")
    return predictions


def _ring(count: int, order: Sequence[int] | Tensor | None) -> tuple[list[int], list[int]]:
    places = list(range(count)) if order is None else [int(i) for i in order]
    if sorted(places) != list(range(count)):
        raise ParameterError(f"order must be a permutation of 0..{count - 1}, got {places}")
    return places, [*places[1:], places[0]]


def _pairs(count: int) -> tuple[list[int], list[int]]:
    pairs = list(itertools.permutations(range(count), 2)) or [(0, 0)]
    return [a for a, _ in pairs], [b for _, b in pairs]
