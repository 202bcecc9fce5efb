"""A quantised model with factors as what peft reads: a LoRA adapter beside its dequantised backbone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file, save_model
from torch import nn

from porism.errors import ParameterError
from porism_plugins.quant._engine import dequantised, quantised_layers

_PREFIX = "base_model.model."


def to_peft(model: nn.Module, folder: str | Path) -> Path:
    """Write the factors as a LoRA adapter that ``peft.PeftModel.from_pretrained`` loads, and the backbone beside it.

    Parameters
    ----------
    model
        Made by :func:`~porism_plugins.quant.loftq.loftq`, before or after training.
    folder
        Gets ``adapter_config.json``, ``adapter_model.safetensors``, and in ``backbone`` the model with dequantised
        weights: by ``save_pretrained`` if it has one, else as ``model.safetensors``.

    Returns
    -------
    Path
        Of the backbone, which the adapter must be loaded onto: on the original weights it would be wrong.

    Raises
    ------
    ParameterError
        If no layer is quantised, or none has factors.
    """
    layers = {name: layer for name, layer in quantised_layers(model).items() if layer.rank}
    if not layers:
        raise ParameterError("model has quantised layers, but none with a low-rank term to export")
    folder = Path(folder)
    backbone = folder / "backbone"
    backbone.mkdir(parents=True, exist_ok=True)
    dense: Any = dequantised(model, merge=False)
    if hasattr(dense, "save_pretrained"):
        dense.save_pretrained(backbone)
    else:
        save_model(dense, str(backbone / "model.safetensors"))
    tensors = {
        f"{_PREFIX}{name}.{factor}.weight": getattr(layer, factor).detach().contiguous()
        for name, layer in layers.items()
        for factor in ("lora_A", "lora_B")
    }
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    ranks = {name: layer.rank for name, layer in layers.items()}
    conv1d = all(layer.conv1d for layer in layers.values())
    config = _config(ranks, conv1d=conv1d, backbone=backbone)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return backbone


def _config(ranks: dict[str, int], *, conv1d: bool, backbone: Path) -> dict[str, Any]:
    """A LoRA configuration whose scale alpha / r is 1 in every layer."""
    rank = max(ranks.values())
    others = {f"^{re.escape(name)}$": its for name, its in ranks.items() if its != rank}
    return {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": str(backbone), "inference_mode": True,
        "r": rank, "lora_alpha": rank, "rank_pattern": others, "alpha_pattern": others, "lora_dropout": 0.0,
        "target_modules": "|".join(map(re.escape, ranks)),  # one expression, matched whole: "0" must not mean "3.0"
        "fan_in_fan_out": conv1d, "bias": "none", "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    }  # fmt: skip
