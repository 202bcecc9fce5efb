"""Routers: which experts a token goes to, by a learnt gate, by a table of token ids, or by chance."""

from __future__ import annotations

import heapq
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError


class Routing(NamedTuple):
    """Where T tokens go.

    ``index`` is int64 of shape (T, k), with -1 for a choice that was dropped. ``scale``, of the same shape, multiplies
    the experts' outputs; None stands for ones. ``loss`` is what the router adds to the training loss, or None.
    """

    index: Tensor
    scale: Tensor | None = None
    loss: Tensor | None = None


class TopKRouter(nn.Module):
    """A learnt gate: softmax of a linear map, and the ``k`` most probable experts.

    Parameters
    ----------
    width
        d, of a token.
    experts
        N.
    k
        Experts of a token, 1 to N.
    renormalise
        Whether the k probabilities are divided by their sum, as in Mixtral; otherwise they are used as they are, as in
        the Switch transformer.
    balance
        Weight of :func:`balance_loss`.
    z
        Weight of the mean of the squared logarithm of the softmax's denominator, which keeps logits small.
    generator
        Of the initial weights, normal with standard deviation 0.02. Without one they are zero.

    Examples
    --------
    >>> router = TopKRouter(8, 4, k=2, renormalise=True, generator=torch.Generator().manual_seed(0))
    >>> router(torch.ones(3, 8)).scale.sum(1)
    tensor([1., 1., 1.], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        width: int,
        experts: int,
        *,
        k: int = 1,
        renormalise: bool = False,
        balance: float = 0.0,
        z: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _whole("k", k, experts)
        self.k, self.renormalise, self.balance, self.z = k, renormalise, balance, z
        self.weight = nn.Parameter(torch.zeros(experts, width))
        if generator is not None:
            nn.init.normal_(self.weight, std=0.02, generator=generator)

    def forward(self, x: Tensor, token_ids: Tensor | None = None) -> Routing:
        """Choose experts for x of shape (..., d); the softmax is taken in float32 at least."""
        logits = F.linear(x.reshape(-1, x.shape[-1]), self.weight)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        probabilities = logits.softmax(-1)
        scale, index = probabilities.topk(self.k, dim=-1)
        if self.renormalise:
            scale = scale / scale.sum(-1, keepdim=True)
        loss = None
        if self.balance:
            loss = self.balance * balance_loss(probabilities, index)
        if self.z:
            penalty = self.z * logits.logsumexp(-1).square().mean()
            loss = penalty if loss is None else loss + penalty
        return Routing(index, scale, loss)


class HashRouter(nn.Module):
    """A fixed table from token id to expert, saved with the weights as the buffer ``table``.

    Parameters
    ----------
    table
        int64 of shape (vocabulary,), of :func:`random_table` or :func:`balanced_table`.
    source
        Where the ids of the present pass are kept when the layer is called without them.

    Examples
    --------
    >>> router = HashRouter(torch.tensor([0, 1, 1]))
    >>> router(torch.zeros(2, 4), torch.tensor([2, 0])).index
    tensor([[1],
            [0]])
    """

    table: Tensor

    def __init__(self, table: Tensor, *, source: TokenIds | None = None) -> None:
        super().__init__()
        if table.dim() != 1 or not len(table) or table.is_floating_point() or int(table.min()) < 0:
            raise ParameterError(f"table must hold expert numbers, shape (vocabulary,), got {tuple(table.shape)}")
        self.register_buffer("table", table.long())
        self.source = source

    def forward(self, x: Tensor, token_ids: Tensor | None = None) -> Routing:
        """Look up the ids, of x's shape without its last axis."""
        ids = token_ids if token_ids is not None or self.source is None else self.source.ids
        if ids is None:
            raise ParameterError("token_ids is needed for hash routing, shaped as the input without its last axis")
        if ids.shape != x.shape[:-1]:
            raise ParameterError(f"token_ids must have shape {tuple(x.shape[:-1])}, got {tuple(ids.shape)}")
        flat = ids.reshape(-1)
        if not flat.is_cuda and flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < len(self.table):
            raise ParameterError(f"token_ids must be from 0 to {len(self.table) - 1}, the table's length less one")
        return Routing(self.table[flat][:, None])


class RandomRouter(nn.Module):
    """Experts drawn uniformly, without regard to the token, ``k`` different ones.

    Parameters
    ----------
    experts
        N.
    k
        Experts of a token; their outputs are averaged.
    per
        Whether each token, each sequence (the first axis of the input) or each pass makes a draw of its own.
    generator
        Where draws come from, on the CPU; never torch's global one.

    Examples
    --------
    >>> router = RandomRouter(4, per="pass", generator=torch.Generator().manual_seed(0))
    >>> len(router(torch.zeros(5, 8)).index.unique())
    1
    """

    def __init__(
        self,
        experts: int,
        *,
        k: int = 1,
        per: Literal["token", "sequence", "pass"] = "token",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        _whole("k", k, experts)
        if per not in ("token", "sequence", "pass"):
            raise ParameterError(f"per must be token, sequence or pass, got {per!r}")
        self.experts, self.k, self.per, self.generator = experts, k, per, generator

    def forward(self, x: Tensor, token_ids: Tensor | None = None) -> Routing:
        """Draw experts for x of shape (..., d)."""
        tokens = x.shape[:-1].numel()
        draws = {"token": tokens, "sequence": x.shape[0] if x.dim() > 2 else tokens, "pass": 1}[self.per]
        keys = torch.rand(max(draws, 1), self.experts, generator=self.generator)
        index = keys.argsort(-1)[:, : self.k]
        index = index.repeat_interleave(-(-tokens // len(index)), 0)[:tokens].to(x.device)
        return Routing(index, None if self.k == 1 else torch.full_like(index, 1, dtype=x.dtype) / self.k)

    def __deepcopy__(self, memo: dict[int, Any]) -> RandomRouter:
        """A copy whose generator goes on from the same state, on its own."""
        generator = torch.Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        copied = RandomRouter(self.experts, k=self.k, per=self.per, generator=generator)
        memo[id(self)] = copied
        return copied.train(self.training)


class TokenIds:
    """Where a model's token ids are kept for routers deep inside it, until the next pass."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenIds:
        """An empty one, which all copied together share."""
        memo[id(self)] = copied = TokenIds()
        return copied


def balance_loss(probabilities: Tensor, index: Tensor) -> Tensor:
    """Fedus et al.'s load-balancing loss, N sum_e P_e f_e, of probabilities (T, N) and choices (T, k).

    P_e is the mean probability of expert e and f_e its share of the choices, which has no gradient. It is 1 where one
    of them is uniform, and N where all goes to one expert.

    Examples
    --------
    >>> balance_loss(torch.full((4, 2), 0.5), torch.tensor([[0], [0], [0], [1]]))
    tensor(1.)
    """
    count = probabilities.shape[-1]
    share = torch.bincount(index.reshape(-1), minlength=count).to(probabilities) / max(index.numel(), 1)
    return count * (probabilities.sum(0) / max(len(probabilities), 1) * share).sum()


def random_table(vocabulary: int, experts: int, rng: np.random.Generator) -> Tensor:
    """An expert for each token id, drawn uniformly: int64 of shape (vocabulary,)."""
    _whole("vocabulary", vocabulary)
    _whole("experts", experts)
    return torch.from_numpy(rng.integers(experts, size=vocabulary))


def balanced_table(frequencies: ArrayLike, experts: int, rng: np.random.Generator) -> Tensor:
    """An expert for each token id, so that experts get about equally many tokens.

    Tokens are dealt out from the most frequent on, each to the expert with the least so far; ties are broken by chance.

    Parameters
    ----------
    frequencies
        Counts or shares, at least 0, shape (vocabulary,).
    experts
        N.
    rng
        Of the ties.

    Returns
    -------
    int64 Tensor of shape (vocabulary,)

    Examples
    --------
    >>> table = balanced_table([5, 3, 2, 0], 2, np.random.default_rng(0))
    >>> bool(table[0] != table[1]), bool(table[1] == table[2])
    (True, True)
    """
    _whole("experts", experts)
    share = np.asarray(frequencies, dtype=float)
    if share.ndim != 1 or not len(share) or not np.isfinite(share).all() or (share < 0).any():
        raise ParameterError("frequencies must be finite numbers from 0 on, shape (vocabulary,)")
    shuffled = rng.permutation(len(share))
    table = torch.zeros(len(share), dtype=torch.int64)
    loads = [(0.0, 0, int(expert)) for expert in rng.permutation(experts)]
    heapq.heapify(loads)
    for token in shuffled[np.argsort(-share[shuffled], kind="stable")].tolist():
        load, tokens, expert = loads[0]
        table[token] = expert
        heapq.heapreplace(loads, (load + float(share[token]), tokens + 1, expert))
    return table


def _whole(name: str, value: Any, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        raise ParameterError(f"{name} must be a whole number from 1 on{f' to {most}' if most else ''}, got {value!r}")
