"""The ensemble: members that share a model, their passes, the two losses, and the average that predicts."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from porism import validated
from porism.errors import ParameterError
from porism.surgery import evaluating
from porism_plugins.distill import _camero_members as parts
from porism_plugins.distill._camero_perturbation import Perturbed, adversarial, gaussian
from porism_plugins.distill._consistency import consistency

Perturbation = Literal["dropout", "noise", "adversarial", "none"]


class Output(dict[str, Any]):
    """Tensors by name, as keys and as attributes; transformers' trainer reads it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"this output has no {name}; it has {', '.join(self)}") from error


class CAMERO(nn.Module):
    """An ensemble of perturbed members that share a model, with a penalty on their disagreement.

    Parameters
    ----------
    model
        Any module whose output is logits, or has them as ``.logits`` or first entry; the batch is the first axis. It
        is taken over: the parts named below are replaced within it.
    heads
        Names of submodules, usually the output layer, of which each member has one of its own. The first member keeps
        the given weights; the others' are drawn anew as the model draws them.
    own
        Names of further submodules that each member has for itself, such as the last blocks. They start as copies.
    members
        How many, 4 by default.
    perturbation
        What tells the members' passes apart in training: ``"dropout"`` (default), masks of their own; ``"noise"``,
        masks and Gaussian noise at the embeddings; ``"adversarial"``, masks and the direction that moves the member's
        prediction most; ``"none"``, only what is their own: all members in one pass.
    form
        What the penalty compares: ``"ring"`` (default), members beside one another on a ring that is shuffled at each
        step; ``"mean"``, each with the mean of the logits; ``"all"``, all pairs.
    divergence
        ``"auto"`` (default) is the symmetric KL for class labels and ``"mse"`` for floating ones; or any name of
        :func:`~porism_plugins.distill._consistency.disagreement`.
    alpha
        Weight of the penalty, 1 by default; an attribute, so that it can be changed on the way.
    embeddings
        Name of the submodule whose output is perturbed; ``""`` is the model's first argument.
    strength
        Standard deviation of the noise, or largest entry of the adversarial direction, in units of the root mean square
        of each sample's embeddings; 0.1 by default.
    steps
        Gradients for the adversarial direction, 1 by default; each costs a forward and a backward pass for each member.
    ignore_index
        Class label of rows that do not count, neither for the task nor for the penalty.
    seed
        Of new weights, dropout, noise and the ring, with the number of training passes so far, which is in the state
        dict. torch's own generators are left as they were.

    Raises
    ------
    ParameterError
        For options out of range, names that are not there or within one another, embeddings that are no floats;
        in a call, for labels that do not fit the logits, are out of range or all ignored.

    Notes
    -----
    In training the output has ``loss``, ``logits`` (the mean), ``task``, ``consistency`` and ``members``, logits of
    shape (members, batch, ...). In evaluation there is no perturbation, what is shared runs once, and the output has
    ``logits`` and, with labels, ``loss``, the task loss of these mean logits. Without labels there is no loss.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    >>> ensemble = CAMERO(model, heads=["3"], members=4)
    >>> ensemble(torch.zeros(5, 3), labels=torch.zeros(5, dtype=torch.long)).members.shape
    torch.Size([4, 5, 2])
    >>> sorted(ensemble.eval()(torch.zeros(5, 3)))
    ['logits']
    """

    def __init__(self, model: nn.Module, heads: Sequence[str], own: Sequence[str] = (), **options: Any) -> None:
        super().__init__()
        self._build(model, heads, own, **options)

    @validated
    def _build(
        self,
        model: nn.Module,
        heads: Sequence[str],
        own: Sequence[str],
        *,
        members: Annotated[int, Interval(ge=1, le=1000)] = 4,
        perturbation: Perturbation = "dropout",
        form: Literal["ring", "mean", "all"] = "ring",
        divergence: str = "auto",
        alpha: Annotated[float, Interval(ge=0, le=1e6)] = 1.0,
        embeddings: str = "",
        strength: Annotated[float, Interval(gt=0, le=100)] = 0.1,
        steps: Annotated[int, Interval(ge=1, le=100)] = 1,
        ignore_index: int = -100,
        seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0,
    ) -> None:
        if isinstance(heads, str) or isinstance(own, str):
            raise ParameterError("heads and own must be lists of names, not one string")
        parts.check_apart([*own, *heads])
        if embeddings and embeddings not in dict(model.named_modules()):
            raise ParameterError(f"embeddings must name a submodule, got {embeddings!r}")
        self.model, self.count, self.passes = model, members, 0
        self.perturbation, self.form, self.divergence, self.alpha = perturbation, form, divergence, alpha
        self.embeddings, self.strength, self.steps = embeddings, strength, steps
        self.ignore_index, self.seed = ignore_index, seed
        with parts.seeded(torch.device("cpu"), seed):
            parts.give_each_member(model, own, members, redraw=False)
            parts.give_each_member(model, heads, members, redraw=True)
        self._in_one_pass = True

    def forward(self, *inputs: Any, labels: Tensor | None = None, **options: Any) -> Output:
        """Call the model with these arguments for every member.

        Parameters
        ----------
        inputs, options
            What the model takes, but for labels; tensors have the batch first.
        labels
            Class indices of the shape of the logits without their last axis, or floats to regress.
        """
        if not self.training:
            logits = self._all_members(inputs, options).mean(0)
            loss = {} if labels is None else {"loss": self._task(logits[None], labels)[0]}
            return Output(**loss, logits=logits)
        members = self._training_logits(inputs, options)
        with parts.seeded(torch.device("cpu"), self.seed, self.passes, 2):
            order = torch.randperm(self.count)
        self.passes += 1
        found = {"logits": members.mean(0), "members": members}
        task, mask = (None, None) if labels is None else self._task(members, labels)
        found["consistency"] = self._penalty(members, labels, mask, order)
        if task is not None:
            found |= {"loss": task + self.alpha * found["consistency"], "task": task}
        return Output(found)

    @torch.no_grad()
    def member_logits(self, *inputs: Any, **options: Any) -> Tensor:
        """Logits of each member without dropout and perturbation, shape (members, batch, ...)."""
        with evaluating(self.model):
            return self._all_members(inputs, options)

    def member(self, number: int) -> nn.Module:
        """A copy of one member as an ordinary model; ``number`` in 0..members - 1."""
        if not 0 <= number < self.count:
            raise ParameterError(f"number must be in 0..{self.count - 1}, got {number}")
        return parts.only_member(self.model, number)

    def get_extra_state(self) -> Tensor:
        """The number of training passes so far."""
        return torch.tensor(self.passes)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from so many passes."""
        self.passes = int(state)

    def _training_logits(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
        masks, draws = (self.seed, self.passes, 0), (self.seed, self.passes, 1)
        if self.perturbation == "none":
            return self._all_members(inputs, options, masks)
        perturbed, found = Perturbed(self.model, self.embeddings), []
        for member in range(self.count):
            # The same masks in each pass of a member at this step, so that its direction is that of its own network.
            predict = functools.partial(self._pass, member, inputs, options, (*masks, member))
            delta: Any = 0.0
            if self.perturbation == "noise":
                delta = functools.partial(gaussian, strength=self.strength)
            elif self.perturbation == "adversarial":
                kind = "symmetric_kl" if self.divergence == "auto" else self.divergence
                with parts.seeded(self._device, *draws, member):
                    delta = adversarial(perturbed, predict, strength=self.strength, steps=self.steps, divergence=kind)
            with contextlib.nullcontext() if self.perturbation == "dropout" else perturbed.by(delta):
                found.append(predict())
        return torch.stack(found)

    def _all_members(self, inputs: Sequence[Any], options: Mapping[str, Any], masks: tuple[int, ...] = ()) -> Tensor:
        """Shape (members, batch, ...); with dropout masks that are the same for all in what is shared."""
        if not parts.parts_of(self.model):
            logits = self._pass(0, inputs, options, masks)
            return logits.expand(self.count, *logits.shape)
        if self._in_one_pass:
            rows = parts.batch_of(inputs, options)
            with contextlib.suppress(RuntimeError):  # of shapes; anything else is raised again by the passes below
                logits = self._pass(None, inputs, options, masks)
                if len(logits) == self.count * rows:
                    return logits.unflatten(0, (self.count, rows))
        found = torch.stack([self._pass(member, inputs, options, masks) for member in range(self.count)])
        self._in_one_pass = False  # what comes after the first own part reads the batch in another way as well
        return found

    def _pass(
        self, member: int | None, inputs: Sequence[Any], options: Mapping[str, Any], masks: tuple[int, ...]
    ) -> Tensor:
        drawing = parts.seeded(self._device, *masks) if masks else contextlib.nullcontext()
        with drawing, parts.selected(self.model, member, parts.batch_of(inputs, options)):
            output = self.model(*inputs, **options)
        if isinstance(output, Tensor):
            return output
        return output.logits if hasattr(output, "logits") else output[0]

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def _penalty(self, members: Tensor, labels: Tensor | None, mask: Tensor | None, order: Tensor) -> Tensor:
        kind = self.divergence
        if labels is not None and labels.is_floating_point():
            kind = "mse" if kind == "auto" else kind
            members = members.flatten(2) if members.dim() > 2 else members[..., None]
        kind = "symmetric_kl" if kind == "auto" else kind
        return consistency(members, divergence=kind, form=self.form, order=order, mask=mask)

    def _task(self, members: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean loss of the members, and which rows count."""
        members = members.to(torch.promote_types(members.dtype, torch.float32))
        if labels.is_floating_point():
            targets = labels.reshape(members.shape[1:]) if labels.numel() == members[0].numel() else None
            if targets is None or len(labels) != members.shape[1]:
                raise ParameterError(
                    f"labels must have the shape {tuple(members.shape[1:])}, got {tuple(labels.shape)}"
                )
            return F.mse_loss(members, targets.to(members).expand_as(members)), None
        classes = members.shape[-1]
        if members.dim() < 3 or labels.shape != members.shape[1:-1] or classes < 2:
            raise ParameterError(
                f"class labels must have the shape {tuple(members.shape[1:-1])} of logits {tuple(members.shape[1:])}, "
                f"got {tuple(labels.shape)}; labels to regress must be floating"
            )
        mask = labels != self.ignore_index
        if not mask.any():
            raise ParameterError(f"labels are all ignored ({self.ignore_index})")
        valid = labels[mask].long()
        if int(valid.min()) < 0 or int(valid.max()) >= classes:
            raise ParameterError(f"labels must be in 0..{classes - 1} or ignored ({self.ignore_index})")
        return F.cross_entropy(members[:, mask].flatten(0, 1), valid.repeat(len(members))), mask


def from_transformers(model: nn.Module, *, members: int = 4, own_layers: int = 0, **options: Any) -> CAMERO:
    """An ensemble of a transformers model that classifies or regresses; the model itself is left as it is.

    Each member has the pooler and whatever stands on top of the encoder for itself, as in the released code, and the
    last ``own_layers`` blocks, as in the paper. Noise is added to the token or patch embeddings.

    Parameters
    ----------
    model
        Such as ``AutoModelForSequenceClassification.from_pretrained(...)``; it is copied.
    members
        How many.
    own_layers
        Blocks at the top that members do not share.
    options
        Of :class:`CAMERO`.

    Raises
    ------
    ParameterError
        If the model has no head on its encoder, or not so many blocks; and as :class:`CAMERO`.

    Examples
    --------
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 8}
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=10, **size))
    >>> ensemble = from_transformers(model, members=3, own_layers=1)
    >>> [name for name, _ in ensemble.model.named_modules() if name.endswith("members")]
    ['bert.encoder.layer.1.members', 'bert.pooler.members', 'classifier.members']
    """
    model = copy.deepcopy(model)
    base, names = getattr(model, "base_model", model), {module: name for name, module in model.named_modules()}
    heads = [
        name for name, child in model.named_children() if child is not base and any(True for _ in child.parameters())
    ]
    if base is model or not heads:
        raise ParameterError("model must be an encoder of transformers with a head on it, such as a ...Classification")
    if getattr(base, "pooler", None) is not None:
        heads.insert(0, names[base.pooler])
    blocks = max((m for m in base.modules() if isinstance(m, nn.ModuleList)), key=len, default=nn.ModuleList())
    if not 0 <= own_layers <= len(blocks):
        raise ParameterError(f"own_layers must be in 0..{len(blocks)}, got {own_layers}")
    own = [names[block] for block in blocks[len(blocks) - own_layers :]]
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # members would write to one cache
    options.setdefault("embeddings", names[model.get_input_embeddings()])
    return CAMERO(model, heads, own, members=members, **options)
