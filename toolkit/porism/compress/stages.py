"""The two ways to a compressed model on the disk: whole in memory, or layer by layer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from porism.compress.checkpoint import by_module, hollow
from porism.compress.data import Data
from porism.compress.evaluation import Evaluation, evaluate, relative_change
from porism.compress.layers import Changes, changes, numbers_in
from porism.compress.measure import flops, latencies
from porism.compress.methods import Method
from porism.compress.offload import emptied, reading
from porism.compress.report import layer_rows
from porism.compress.saved import assembled, write_record
from porism.compress.shards import finish, shards_of, write_model
from porism.compress.source import Source
from porism.compress.streaming import compress_layers
from porism.errors import ParameterError, PorismError
from porism.home import writing


@dataclasses.dataclass(frozen=True)
class Job:
    """What was asked for, checked."""

    source: Source
    method: Method
    options: dict[str, Any]
    patterns: dict[str, list[str]]
    batch_size: int
    device: str
    progress: Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of it: how the quality was, the report's rows, and numbers with non-zeros before and after."""

    before: Evaluation
    after: Evaluation
    rows: list[dict[str, Any]]
    totals: dict[str, list[int]]
    costs: dict[str, Any]


def whole(staging: Path, job: Job, before: nn.Module, calibration: Data | None, judged: Data) -> Outcome:
    """Compress a model that is in memory, and write it."""
    method, checkpoint = job.method, job.source.checkpoint
    quality = evaluate(before, judged, batch_size=job.batch_size, device=job.device)
    given: dict[str, Any] = {**job.options, **job.patterns}
    if calibration is not None:
        batches = calibration.training if method.trains else calibration.batches
        given["calibration"] = batches(job.batch_size, job.device)
    if "inplace" in method.takes:
        given["inplace"] = True
    job.progress(f"compressing by {method.loaded.paper.key}")
    after: nn.Module = method.function(copy.deepcopy(before), **given).eval()
    _contiguous(after)
    homes = {} if checkpoint is None else _homes(checkpoint, before)
    write_model(staging, after, homes, shards_of(checkpoint))
    original = job.source.build() if checkpoint is None else hollow(
        _save_config(staging, job.source, after), checkpoint.architecture
    )  # fmt: skip
    changed = _needed(changes(after, original, method.layers, method.loaded.paper.key), original, after, judged, job)
    _finish(staging, job, changed, [name for name, parameter in after.named_parameters() if parameter.requires_grad])
    return Outcome(
        before=quality,
        after=_judge(before, after, judged, job),
        rows=layer_rows(before, after),
        totals={"before": _numbers(before), "after": _numbers(after)},
        costs=_costs(before, after, judged, job),
    )


def stream(staging: Path, job: Job, before: nn.Module, stored: Any, calibration: Data | None, judged: Data) -> Outcome:
    """Compress a checkpoint layer by layer; ``before`` is its model without weights, ``stored`` where these lie."""
    method, checkpoint = job.method, job.source.checkpoint
    assert checkpoint is not None
    with reading(before, stored):
        quality = evaluate(before, judged, batch_size=job.batch_size, device=job.device)
    written = compress_layers(
        staging, checkpoint, method, options=job.options, patterns=job.patterns, calibration=calibration,
        batch_size=job.batch_size, device=job.device, progress=job.progress,
    )  # fmt: skip
    _save_config(staging, job.source, before)
    _finish(staging, job, written.changes, written.trainable)
    paper = method.key if method.key.endswith(".py") else None
    after, now, _ = assembled(staging, paper=paper, device=job.device)
    with reading(before, stored), reading(after, now):
        return Outcome(
            before=quality,
            after=_judge(before, after, judged, job),
            rows=written.rows,
            totals=written.totals,
            costs=_costs(before, after, judged, job, seconds=2.0),
        )


def _needed(found: Changes, original: nn.Module, after: nn.Module, judged: Data, job: Job) -> Changes:
    """Without numbers that changed but that nothing computes with, so that such a model is an ordinary one."""
    if found.layers or not found.attributes:
        return found
    plain = emptied(original, job.device)
    plain.load_state_dict(after.state_dict(), assign=True)
    batch = judged.rows([0])
    try:
        same = [evaluate(m, batch, batch_size=1, device=job.device).digests for m in (plain.eval(), after)]
    except (RuntimeError, ParameterError):  # heads that do not fit
        return found
    return Changes({}, {}) if same[0] == same[1] else found


def _judge(before: nn.Module, after: nn.Module, judged: Data, job: Job) -> Evaluation:
    job.progress("evaluating")
    found = evaluate(after, judged, batch_size=job.batch_size, device=job.device)
    if found.value is not None:
        return found
    change = relative_change(before, after, judged, batch_size=job.batch_size, device=job.device)
    return dataclasses.replace(found, value=change)


def _costs(before: nn.Module, after: nn.Module, judged: Data, job: Job, seconds: float | None = None) -> dict[str, Any]:
    batch = judged.rows([0]).batches(1, job.device)[0]
    job.progress("timing")
    return {
        "flops": {"before": flops(before, batch), "after": flops(after, batch)},
        "latency": latencies(before, after, batch, device=job.device, seconds=seconds),
    }


def _homes(checkpoint: Any, model: nn.Module) -> dict[str, str]:
    """In which file of the original each tensor is, by the names of the model; nothing where these are converted."""
    try:
        return {name: item.path.name for name, item in by_module(checkpoint, model).items()}
    except PorismError:
        return {}


def _save_config(staging: Path, source: Source, model: Any) -> Any:
    assert source.checkpoint is not None
    model.config.architectures = [source.checkpoint.architecture]
    with writing(staging / "config.json"):
        model.config.save_pretrained(staging)
    return model.config


def _finish(staging: Path, job: Job, changed: Changes, trainable: list[str]) -> None:
    """Name the files and write ``porism.json``; an adapter says which parameters it leaves trainable."""
    checkpoint, adapts = job.source.checkpoint, "adapter" in job.method.loaded.paper.kinds
    files = finish(staging, shards_of(checkpoint), checkpoint, ordinary=changed.ordinary)
    write_record(staging, job.source, job.method, changed, files, options=job.options, patterns=job.patterns,
                 trainable=trainable if adapts and changed.layers else None)  # fmt: skip


def _contiguous(model: nn.Module) -> None:
    """Bring tensors into the order in which they are saved, as products of others may give other last bits."""
    for parameter in model.parameters():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()


def _numbers(model: nn.Module) -> list[int]:
    coded = {name: m for name, m in model.named_modules() if hasattr(m, "options") and hasattr(m, "nbytes")}
    inside = tuple(f"{name}." for name in coded)
    counts = [numbers_in(module) for module in coded.values()]
    counts += [
        (p.numel(), int(p.count_nonzero()))
        for n, p in [*model.named_parameters(), *model.named_buffers()]
        if p.is_floating_point() and not (inside and n.startswith(inside)) and n in model.state_dict()
    ]
    return [sum(c[0] for c in counts), sum(c[1] for c in counts)]
