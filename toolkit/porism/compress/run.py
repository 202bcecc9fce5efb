"""From a model and a method's key to a folder: compress, measure, write, load again, compare, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from porism import __version__
from porism.compress import data as inputs
from porism.compress.data import Data
from porism.compress.measure import free_memory, give_back_freed_memory, machine, peak_memory
from porism.compress.methods import checked, method_of
from porism.compress.output import check_output, staged
from porism.compress.report import write_report
from porism.compress.source import open_source
from porism.compress.stages import Job, Outcome, stream, whole
from porism.compress.streaming import can_stream, hollow_source
from porism.compress.verify import verify
from porism.errors import ParameterError


def compress(
    model: str | Path, key: str, output: str | Path, *, options: Mapping[str, Any] | None = None,
    include: Sequence[str] | None = None, exclude: Sequence[str] | None = None, calibrate: str | Path | None = None,
    evaluate: str | Path | None = None, weights: str | Path | None = None, window: int = 128,
    samples: int | None = None, batch_size: int = 8, memory: int | None = None, device: str = "cpu",
    overwrite: bool = False, progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:  # fmt: skip
    """Put a published compressor on a model, and write the result, a report and what loads it again.

    Parameters
    ----------
    model
        A folder of ``save_pretrained`` (causal language models, classifiers of text and of images), or a function that
        builds a torch module: ``package.module:function`` or ``path/to/file.py:function``.
    key
        A compressor's key, or the path of its file.
    output
        Folder to write; it appears whole at the end or not at all.
    options
        Of the method, by name.
    include, exclude
        Patterns of layers, as in :func:`porism.surgery.linear_layers`; the method's own by default.
    calibrate
        A text for language models; else ``.npz`` or ``.safetensors`` with inputs by name, and ``labels``.
    evaluate
        The same for judging; by default a fifth of ``calibrate`` is kept back, or, for a method that needs no
        calibration, all of it is used.
    weights
        For a module factory: safetensors with its state.
    window
        Tokens in a row of text.
    samples
        Rows to calibrate with; by default all if the method trains, else 128.
    batch_size
        Rows at a time.
    memory
        Bytes that the run may take; a checkpoint whose double does not fit is read layer by layer. By default what is
        free. Only the choice depends on it, not the result.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    overwrite
        Replace an older output of this command, once the new one is complete.
    progress
        Called with a line before each slow step.

    Returns
    -------
    dict
        What ``report.json`` holds.

    Raises
    ------
    PorismError
        For whatever is wrong with the arguments, files or model; nothing is written then.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    for name, value in (("window", window), ("batch_size", batch_size), ("samples", samples), ("memory", memory)):
        if value is not None and value < (2 if name == "window" else 1):
            raise ParameterError(f"{name} must be at least {2 if name == 'window' else 1}, got {value}")
    job = _job(model, key, options or {}, include, exclude, weights, batch_size, device, progress)
    if job.method.needs_calibration and calibrate is None:
        raise ParameterError(f"{job.method.loaded.paper.key} needs calibration data: give --calibrate FILE")
    if job.source.checkpoint is None and calibrate is None and evaluate is None:
        raise ParameterError("a module factory needs inputs to be verified with: give --evaluate FILE")
    streaming = _streams(job, memory)
    start = time.perf_counter()
    if streaming:
        give_back_freed_memory()
    with staged(output, overwrite=overwrite) as staging, torch.no_grad() if streaming else nullcontext():
        before, read_before = _before(job, streaming)
        calibration, judged = _data(job, before, calibrate, evaluate, window=window, samples=samples)
        if streaming:
            outcome = stream(staging, job, before, read_before, calibration, judged)
        else:
            outcome = whole(staging, job, before, calibration, judged)
        progress("loading it in a fresh process, to compare")
        factory = job.source.name if job.source.checkpoint is None else None
        paper = job.method.key if job.method.key.endswith(".py") else None
        verify(staging, judged, outcome.after, model=factory, paper=paper, batch_size=batch_size, device=device,
               streaming=streaming)  # fmt: skip
        report = _report(job, outcome, staging, calibration, judged, streaming=streaming,
                         calibrate=calibrate, evaluate=evaluate, seconds=time.perf_counter() - start)  # fmt: skip
        write_report(staging, report)
    return report


def _job(
    model: str | Path, key: str, options: Mapping[str, Any], include: Sequence[str] | None,
    exclude: Sequence[str] | None, weights: str | Path | None, batch_size: int, device: str,
    progress: Callable[[str], None],
) -> Job:  # fmt: skip
    method = method_of(key)
    chosen = checked(method, options)
    patterns = {"include": method.patterns("include", None if include is None else list(include)),
                "exclude": method.patterns("exclude", None if exclude is None else list(exclude))}  # fmt: skip
    _check_device(device)
    source = open_source(str(model), weights)
    given = {name: value for name, value in patterns.items() if value is not None}
    return Job(source, method, chosen, given, batch_size, device, progress)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ParameterError(f"there is no device {device!r}; give cpu, cuda or cuda:N") from error
    if kind.type not in ("cpu", "cuda"):
        raise ParameterError(f"device must be cpu, cuda or cuda:N, got {device}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind.type == "cuda" and (kind.index or 0) >= found:
        raise ParameterError(f"there is no {device} here ({found} CUDA devices); use --device cpu")


def _streams(job: Job, memory: int | None) -> bool:
    """Whether to read layer by layer: where two whole models do not fit."""
    checkpoint = job.source.checkpoint
    limit = free_memory() if memory is None else memory
    if checkpoint is None or 2 * checkpoint.nbytes <= limit:
        return False
    reason = can_stream(job.method, job.options)
    if reason and memory is not None:
        raise ParameterError(f"two models of {checkpoint.nbytes:,} bytes do not fit in --memory, and {reason}")
    return not reason


def _before(job: Job, streaming: bool) -> tuple[nn.Module, Any]:
    """The original model, whole, or without weights and with a context in which it reads them."""
    job.progress(f"loading {job.source.name}")
    if not streaming or job.source.checkpoint is None:
        return job.source.whole().to(job.device), None
    model, stored = hollow_source(job.source.checkpoint, job.device)
    return model, stored


def _data(
    job: Job, model: nn.Module, calibrate: str | Path | None, evaluate_on: str | Path | None, *, window: int,
    samples: int | None,
) -> tuple[Data | None, Data]:  # fmt: skip
    checkpoint = job.source.checkpoint
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def read(path: str | Path) -> Data:
        return inputs.in_dtype(inputs.read_data(Path(path), model, checkpoint, window=window), dtype)

    if evaluate_on is None and calibrate is None:
        assert checkpoint is not None
        return None, inputs.in_dtype(inputs.example_data(checkpoint), dtype)
    calibration = judged = None
    if calibrate is not None:
        held_out = evaluate_on is None and job.method.calibrated
        calibration, judged = inputs.divided(read(calibrate), held_out=held_out)
        calibration = inputs.sampled(
            calibration, samples or (len(calibration) if job.method.trains else inputs.CALIBRATION)
        )
    if evaluate_on is not None:
        judged = read(evaluate_on)
    assert judged is not None
    return calibration if job.method.calibrated else None, judged


def _report(
    job: Job, outcome: Outcome, staging: Path, calibration: Data | None, judged: Data, *, streaming: bool,
    calibrate: Any, evaluate: Any, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    paper, checkpoint = job.method.loaded.paper, job.source.checkpoint
    files = set() if checkpoint is None else {item.path for item in checkpoint.stored.values()}
    after = sum(file.stat().st_size for file in staging.glob("*.safetensors"))
    before = sum(file.stat().st_size for file in files) if files else job.source.nbytes()
    held_out = evaluate is None and calibrate is not None and job.method.calibrated
    return {
        "model": job.source.name,
        "architecture": None if checkpoint is None else checkpoint.architecture,
        "key": paper.key,
        "title": paper.title,
        "authors": list(paper.authors),
        "year": paper.year,
        "url": paper.url,
        "options": {**{n: p.default for n, p in job.method.parameters.items() if n not in job.method.optional},
                    **job.options},
        "patterns": job.patterns,
        "bytes": {"before": before, "after": after},
        "parameters": {"before": outcome.totals["before"][0], "after": outcome.totals["after"][0]},
        "nonzeros": {"before": outcome.totals["before"][1], "after": outcome.totals["after"][1]},
        **outcome.costs,
        "quality": {
            "measure": outcome.after.measure if calibrate or evaluate else "none",
            "before": outcome.before.value if calibrate or evaluate else None,
            "after": outcome.after.value if calibrate or evaluate else None,
        },
        "data": {
            "calibration": None if calibration is None else str(calibrate),
            "calibration_rows": 0 if calibration is None else len(calibration),
            "evaluation": str(evaluate or calibrate or "random inputs"),
            "evaluation_rows": len(judged),
            "held_out": held_out,
            "unit": "windows" if judged.language else "rows",
        },
        "streamed": streaming,
        "verified": len(outcome.after.digests),
        "seconds": round(seconds, 2),
        "peak_memory": peak_memory(),
        "porism": __version__,
        "machine": machine(job.device),
        "layers": outcome.rows,
    }  # fmt: skip
