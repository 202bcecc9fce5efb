"""A model with low-rank adapters as what peft reads: a LoRA adapter for the very model that it started from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from porism.errors import ParameterError
from porism_plugins.peft._engine import Adapter, adapters


def to_peft(model: nn.Module, folder: str | Path, *, base: str = "") -> Path:
    """Write the adapters as a LoRA adapter that ``peft.PeftModel.from_pretrained`` loads onto the original model.

    Parameters
    ----------
    model
        With adapters that have ``factors()``, before, during or after training; layers without a triplet are left out,
        and triplets whose lambda is zero are as well.
    folder
        Gets ``adapter_config.json`` and ``adapter_model.safetensors``.
    base
        Where the original model is, for ``AutoPeftModel``; a path or a name, may be empty.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ParameterError
        If no layer has an increment.
    """
    found = {name: _factors(layer) for name, layer in adapters(model).items() if hasattr(layer, "factors")}
    found = {name: (left, right) for name, (left, right) in found.items() if len(right)}
    if not found:
        raise ParameterError("model has no adapter with an increment other than zero, so there is nothing to export")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (left, right) in found.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = right
        tensors[f"base_model.model.{name}.lora_B.weight"] = left
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    layers = adapters(model)
    conv1d = all(not isinstance(layers[name].base, nn.Linear) for name in found)
    config = _config({name: len(right) for name, (_, right) in found.items()}, conv1d=conv1d, base=base)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _factors(layer: Adapter) -> tuple[Tensor, Tensor]:
    """B and A with the scale in A, without triplets that are zero."""
    left, right = (factor.detach() for factor in layer.factors())  # type: ignore[operator]
    kept = right.abs().amax(1).nonzero().flatten() if len(right) else []
    return left[:, kept].cpu().contiguous(), right[kept].cpu().contiguous()


def _config(ranks: dict[str, int], *, conv1d: bool, base: str) -> dict[str, Any]:
    """A LoRA configuration whose scale alpha / r is 1 in every layer."""
    rank = max(ranks.values())
    others = {f"^{re.escape(name)}$": its for name, its in ranks.items() if its != rank}
    return {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "inference_mode": True,
        "r": rank, "lora_alpha": rank, "rank_pattern": others, "alpha_pattern": others, "lora_dropout": 0.0,
        "target_modules": "|".join(map(re.escape, ranks)),  # one expression, matched whole: "0" must not mean "3.0"
        "fan_in_fan_out": conv1d, "bias": "none", "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    }  # fmt: skip
