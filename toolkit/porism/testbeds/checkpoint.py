"""A model of one's own in place of the tiny ones: a folder that ``save_pretrained`` of transformers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError

from porism.errors import ParameterError

# How the names of transformers' classes end, and which of its Auto classes loads them.
_AUTO = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
}


def load_checkpoint(folder: Path | str) -> Any:
    """A model of one's own, from a folder that ``save_pretrained`` of transformers wrote; nothing is downloaded.

    Parameters
    ----------
    folder
        With ``config.json`` and the weights as safetensors, whole or in shards.

    Returns
    -------
    PreTrainedModel
        Of the class that the configuration names, in its own dtype, on the CPU, in evaluation mode.

    Raises
    ------
    ParameterError
        If the folder is none of transformers', its weights are pickled (loading these may run code), damaged, or
        lack some of the model's, or the model has no head that is known here.
    """
    folder = Path(folder)
    architecture = _architecture(folder)
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        found = f"has pickled weights ({', '.join(pickled)}), which may run code" if pickled else "has no weights"
        raise ParameterError(f"{folder} {found}; save them as safetensors: model.save_pretrained(folder)")
    automatic = next((auto for end, auto in _AUTO.items() if architecture.endswith(end)), None)
    if automatic is None:
        raise ParameterError(f"{folder} holds {architecture or 'no known model'}; known endings: {', '.join(_AUTO)}")
    load = getattr(transformers, automatic).from_pretrained
    try:
        model, report = load(folder, use_safetensors=True, local_files_only=True, output_loading_info=True)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise ParameterError(f"cannot load {folder}: {' '.join(str(error).split())[:300]}") from error
    if missing := sorted(report["missing_keys"]):
        raise ParameterError(f"{folder} lacks weights of {architecture}: {', '.join(map(str, missing[:8]))}")
    return model.eval()


def _architecture(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str((config.get("architectures") or [""])[0])
    except FileNotFoundError as error:
        raise ParameterError(f"{folder} has no config.json: not a folder of model.save_pretrained") from error
    except (ValueError, AttributeError, OSError) as error:
        raise ParameterError(f"{folder / 'config.json'} is damaged: {error}") from error
