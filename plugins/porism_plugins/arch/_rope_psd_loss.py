"""The loss of RoPE-PSD between logits, and the objective that takes both views from a model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from porism.arrays import check_count, check_number
from porism.divergences import kl_divergence_logits
from porism.errors import ParameterError
from porism_plugins.arch._rope_psd_views import PERTURBATIONS, Perturbation, check_model, draw_view, offset_within

Direction = Literal["reverse", "forward"]
IGNORED = -100


class Parts(NamedTuple):
    """What a step trains on: ``loss`` = ``clm`` + weight x ``consistency``, scalars; and the standard view's output."""

    loss: Tensor
    clm: Tensor
    consistency: Tensor
    outputs: Any


class RoPEPSDLoss(nn.Module):
    """KL divergence of a view's predictions from those of the standard view, which is not differentiated (Sec. 3).

    The mean over compared tokens of each sequence, then over the sequences that have any; 0 if none has. A sum over
    the vocabulary is taken in float32 (float64 if the logits are), a few rows at a time: beside the logits only the
    gradient is held, in their dtype.

    Parameters
    ----------
    direction
        ``"reverse"``, KL(perturbed || standard), or ``"forward"``, KL(standard || perturbed).
    detach
        Whether the standard view is a teacher only. The paper's ablation trains both sides.

    Examples
    --------
    >>> standard = torch.tensor([[[0.0, 0.0]]])
    >>> RoPEPSDLoss()(torch.tensor([[[50.0, 0.0]]]), standard)  # log 2
    tensor(0.6931)
    """

    def __init__(self, direction: Direction = "reverse", *, detach: bool = True) -> None:
        super().__init__()
        if direction not in ("reverse", "forward"):
            raise ParameterError(f"direction must be 'reverse' or 'forward', got {direction!r}")
        self.direction, self.detach = direction, detach

    def forward(self, perturbed_logits: Tensor, teacher_logits: Tensor, compared: Tensor | None = None) -> Tensor:
        """Return the scalar, for logits of shape (batch, length, vocabulary).

        Parameters
        ----------
        perturbed_logits, teacher_logits
            Of the perturbed and of the standard view.
        compared
            Tokens that count, boolean of shape (batch, length); all by default.

        Raises
        ------
        ParameterError
            If shapes or dtypes do not fit, or logits are NaN or infinite.
        """
        if perturbed_logits.dim() != 3 or perturbed_logits.shape != teacher_logits.shape:
            raise ParameterError(
                "perturbed_logits and teacher_logits must have one shape (batch, length, vocabulary), got "
                f"{tuple(perturbed_logits.shape)} and {tuple(teacher_logits.shape)}"
            )
        shape = perturbed_logits.shape[:2]
        if compared is None:
            compared = torch.ones(shape, dtype=torch.bool, device=perturbed_logits.device)
        if compared.shape != shape or compared.dtype != torch.bool:
            raise ParameterError(
                f"compared must be boolean of shape {tuple(shape)}, got {compared.dtype} {tuple(compared.shape)}"
            )
        teacher_logits = teacher_logits.detach() if self.detach else teacher_logits
        sides = (perturbed_logits, teacher_logits)
        each = kl_divergence_logits(*(sides if self.direction == "reverse" else sides[::-1]))
        counts = compared.sum(1)
        sums = torch.where(compared, each, 0).sum(1)
        return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


class RoPEPerturbedSelfDistillation(nn.Module):
    """Language modelling in the standard view, plus agreement of a view with other RoPE positions (Eq. 1).

    Called with a transformers model and a batch with labels; :meth:`compute_loss` is that of ``transformers.Trainer``.
    In evaluation mode it is language modelling alone and draws nothing. Its state dict holds the generator's state.

    Parameters
    ----------
    weight
        Of the consistency term; with 0 the second pass is left out.
    perturbation
        ``"suffix"``: from a random token on, positions jump by a random offset. ``"cyclic"``: all are turned.
        ``"permutation"`` and ``"none"`` (no positions at all) are ablations.
    max_offset
        Largest jump. By default the length of the batch, or what the model's positions leave room for.
    split
        Shares of a sequence's length between which the jump is, in [0, 1].
    only_labelled
        Whether only predictions of tokens that have a label are compared, for training on answers alone: averaged with
        the other tokens of the suffix, the few answers would weigh next to nothing beside their likelihood.
    max_position
        Positions that the model supports, if not ``config.max_position_embeddings``.
    direction, detach
        As in :class:`RoPEPSDLoss`.
    generator
        Of splits and offsets, on the CPU; by default a new one with seed 0. Give each process its own.
    """

    def __init__(
        self,
        weight: float = 0.5,
        *,
        perturbation: Perturbation = "suffix",
        max_offset: int | None = None,
        split: tuple[float, float] = (0.1, 0.9),
        only_labelled: bool = False,
        max_position: int | None = None,
        direction: Direction = "reverse",
        detach: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if perturbation not in PERTURBATIONS:
            raise ParameterError(f"perturbation must be one of {', '.join(PERTURBATIONS)}, got {perturbation!r}")
        if len(split) != 2 or not 0 <= split[0] <= split[1] <= 1:
            raise ParameterError(f"split must be two shares in [0, 1], the smaller one first, got {split!r}")
        self.weight = check_number("weight", weight, at_least=0, below=math.inf)
        self.perturbation, self.split, self.only_labelled = perturbation, split, only_labelled
        self.max_offset = None if max_offset is None else check_count("max_offset", max_offset, 0)
        self.max_position = None if max_position is None else check_count("max_position", max_position, 1)
        self.term = RoPEPSDLoss(direction, detach=detach)
        self.generator = generator if generator is not None else torch.Generator().manual_seed(0)

    def forward(self, model: nn.Module, batch: Mapping[str, Any], *, items: Any = None) -> Parts:
        """Run both views of a batch.

        Parameters
        ----------
        model
            A causal language model of transformers that takes ``position_ids``.
        batch
            Its keyword arguments: ``input_ids`` of shape (batch, length), ``labels`` with -100 where there is none,
            and an ``attention_mask`` of the same shape if there is padding, on either side.
        items
            Labels of the whole step over which the losses of its batches are added up; by default this batch is all.

        Returns
        -------
        Parts
            With ``clm`` = 0 where all labels are ignored, and ``consistency`` = 0 where no sequence can be split.

        Raises
        ------
        ParameterError
            If the model takes no positions, has a RoPE scaling that depends on the largest one, or too few of them;
            if the batch lacks labels, is packed, or has a mask of another shape.
        """
        attended, usual = _tokens(batch)
        if self.weight and self.training:
            check_model(model, self.perturbation)
        shared = _SharedDropout(model)
        with shared:
            outputs = model(**{"use_cache": False, **batch}, **({} if items is None else {"num_items_in_batch": items}))
        logits, labelled = outputs.logits, nn.functional.pad(batch["labels"][:, 1:] != IGNORED, (0, 1))
        counted = labelled.sum()
        clm = outputs.loss if counted else logits.sum() * 0
        if not (self.weight and self.training):
            return Parts(clm, clm.detach(), torch.zeros_like(clm).detach(), outputs)
        view = draw_view(
            attended,
            usual,
            self.generator,
            perturbation=self.perturbation,
            largest_offset=self._largest_offset(model, int((usual * attended).max()) + 1),
            split=self.split,
        )
        others = {name: value for name, value in batch.items() if name not in ("labels", "position_ids")}
        # An explicit mask: without one, transformers takes a jump of positions for the start of a packed document.
        others |= {"attention_mask": attended.long(), "position_ids": view.positions, "use_cache": False}
        with shared:
            perturbed = model(**others).logits
        compared = view.compared & labelled if self.only_labelled else view.compared
        consistency = self.term(perturbed, logits, compared)
        weight = self.weight if items is None else self.weight * counted / items
        return Parts(clm + weight * consistency, clm.detach(), consistency.detach(), outputs)

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Be ``Trainer.compute_loss``: the loss, or (loss, outputs of the standard view).

        With ``num_items_in_batch`` a batch's consistency counts by its share of the labels, so that accumulated
        gradients are those of one large batch.
        """
        self.train(model.training)
        parts = self(model, inputs, items=num_items_in_batch)
        return (parts.loss, parts.outputs) if return_outputs else parts.loss

    def get_extra_state(self) -> Tensor:
        """Return the generator's state, so that a resumed run draws what the first one would have drawn."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Take up a saved state of the generator."""
        self.generator.set_state(state.cpu())

    def _largest_offset(self, model: nn.Module, length: int) -> int:
        if self.perturbation != "suffix":
            return 0
        return offset_within(model, length, self.max_offset, self.max_position)


def _tokens(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Which tokens are not padding, and their positions in the standard view; both of shape (batch, length)."""
    tokens = batch.get("input_ids") if batch.get("input_ids") is not None else batch.get("inputs_embeds")
    if tokens is None or batch.get("labels") is None:
        raise ParameterError("batch must have input_ids (or inputs_embeds) and labels")
    shape, mask, positions = tokens.shape[:2], batch.get("attention_mask"), batch.get("position_ids")
    if batch["labels"].shape != shape:
        raise ParameterError(f"labels must have shape {tuple(shape)}, got {tuple(batch['labels'].shape)}")
    if batch.get("past_key_values") is not None:
        raise ParameterError("batch must not have past_key_values: the cached keys have the standard positions")
    mask = torch.ones(shape, dtype=torch.bool, device=tokens.device) if mask is None else mask
    if mask.shape != shape:
        raise ParameterError(f"attention_mask must have shape {tuple(shape)}, got {tuple(mask.shape)}")
    attended: Tensor = mask.bool()
    if positions is None:
        return attended, torch.arange(shape[1], device=tokens.device).expand(shape)
    both = attended[:, 1:] & attended[:, :-1]
    if positions.dim() != 2 or bool(((positions.diff(dim=1) != 1) & both).any()):
        raise ParameterError("position_ids must count the tokens of one document a row; unpack packed documents")
    return attended, positions.expand(shape)


class _SharedDropout(contextlib.AbstractContextManager["None"]):
    """Entered twice, it gives both passes the same random numbers, and so the same dropout, in training mode."""

    def __init__(self, model: nn.Module) -> None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.active = model.training
        self.cuda = [device] if device.type == "cuda" else []
        self.states: list[Tensor] | None = None

    def _current(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.cuda)]

    def __enter__(self) -> None:
        if not self.active:
            return
        if self.states is None:
            self.states = self._current()
            return
        torch.set_rng_state(self.states[0])
        for device, state in zip(self.cuda, self.states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)

    def __exit__(self, *raised: object) -> None:
        return None
