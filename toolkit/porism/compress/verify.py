"""A fresh process that loads what was written and says what it computes: ``python -m porism.compress.verify``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from porism.compress.data import Data
from porism.compress.evaluation import Evaluation, evaluate
from porism.compress.measure import give_back_freed_memory
from porism.compress.offload import fill, reading
from porism.compress.saved import assembled
from porism.compress.tensors import read, stored_in
from porism.errors import PorismError


def verify(
    folder: Path, data: Data, expected: Evaluation, *, model: str | None, paper: str | None, batch_size: int,
    device: str, streaming: bool,
) -> None:  # fmt: skip
    """Load ``folder`` in a process of its own and compare every bit of the outputs.

    Raises
    ------
    PorismError
        If it cannot be loaded there, or gives other outputs.
    """
    with tempfile.TemporaryDirectory(prefix="porism-verify-") as place:
        file = Path(place) / "data.safetensors"
        tensors = {f"x.{name}": tensor.contiguous() for name, tensor in data.inputs.items()}
        save_file(tensors, file)
        job = {
            "folder": str(folder), "data": str(file), "language": data.language, "model": model, "paper": paper,
            "batch_size": batch_size, "device": device, "streaming": streaming, "threads": torch.get_num_threads(),
        }  # fmt: skip
        child = subprocess.run(
            [sys.executable, "-m", "porism.compress.verify"],
            input=json.dumps(job), capture_output=True, text=True, check=False,
        )  # fmt: skip
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"it ended with code {child.returncode}"])[-1]
        raise PorismError(f"what was written cannot be loaded in a fresh process, so it is not kept: {last}")
    digests = json.loads(child.stdout.strip().splitlines()[-1])
    wrong = sum(a != b for a, b in zip(digests, expected.digests, strict=True))
    if wrong:
        raise PorismError(
            f"what was written computes something else in {wrong} of {len(digests)} batches when it is loaded in a "
            "fresh process, so it is not kept; the plugin's layers do not save all that they compute with"
        )


def _work(job: dict[str, Any]) -> list[str]:
    torch.set_num_threads(job["threads"])
    device = job["device"]
    model, stored, _ = assembled(Path(job["folder"]), model=job["model"], paper=job["paper"], device=device)
    items = stored_in(
        Path(job["data"])
    )  # read as torch aligns it: products of what lies otherwise may end in other bits
    inputs = {name.removeprefix("x."): read(item) for name, item in items.items()}
    data = Data(inputs, language=job["language"])
    if job["streaming"]:
        give_back_freed_memory()
        with reading(model, stored):
            return list(evaluate(model, data, batch_size=job["batch_size"], device=device).digests)
    fill(model, stored, device)
    return list(evaluate(model, data, batch_size=job["batch_size"], device=device).digests)


if __name__ == "__main__":
    try:
        print(json.dumps(_work(json.loads(sys.stdin.read()))))
    except PorismError as error:
        sys.exit(f"{type(error).__name__}: {error}")
