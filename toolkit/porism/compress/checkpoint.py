"""A checkpoint of transformers: what its folder holds, its model whole, and its model without weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from porism.compress.tensors import Stored, stored_in
from porism.errors import MissingExtraError, ParameterError, PorismError

# How the names of transformers' classes end, the Auto class that loads them, and what they do.
_HEADS = {
    "ForCausalLM": ("AutoModelForCausalLM", "language"),
    "LMHeadModel": ("AutoModelForCausalLM", "language"),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "classes"),
    "ForImageClassification": ("AutoModelForImageClassification", "classes"),
}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder of ``save_pretrained``; ``stored`` has each tensor under the name it has on the disk."""

    folder: Path
    config: Any
    architecture: str
    task: str
    stored: dict[str, Stored]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(item.nbytes for item in self.stored.values())


def transformers() -> Any:
    """The library, or a line that says how to get it."""
    try:
        import transformers as library
    except ImportError as error:
        raise MissingExtraError("a checkpoint of transformers needs more packages: pip install 'porism[hf]'") from error
    return library


def open_checkpoint(folder: Path) -> Checkpoint:
    """Look at a folder; nothing but headers is read, nothing downloaded, no code of the folder run.

    Raises
    ------
    ParameterError
        If it is none of ``save_pretrained``'s, its weights are pickled, quantised or damaged, or its head is none of
        those known here.
    """
    content = _config(folder)
    quantised = content.get("quantization_config")
    if quantised:
        how = quantised.get("quant_method", "some method") if isinstance(quantised, dict) else "some method"
        raise ParameterError(f"{folder} is quantised already (by {how}); start from the floating weights")
    if (folder / "porism.json").exists() and not list(folder.glob("model*.safetensors")):
        raise ParameterError(
            f"{folder} was written by porism compress, and its layers are compressed already; start from the original"
        )
    architecture = str((content.get("architectures") or [""])[0])
    head = next((head for end, head in _HEADS.items() if architecture.endswith(end)), None)
    if head is None:
        raise ParameterError(
            f"{folder} holds {architecture or 'a model without a name'} (config.json: architectures); "
            f"known are names that end with {', '.join(_HEADS)}"
        )
    config = _read_config(folder)
    return Checkpoint(folder, config, architecture, head[1], _weights(folder))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParameterError(f"{folder} has no config.json: not a folder of model.save_pretrained") from error
    except (ValueError, OSError) as error:
        raise ParameterError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path} is damaged: it holds {type(content).__name__} and no object")
    return content


def _read_config(folder: Path) -> Any:
    try:
        return transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ParameterError(f"{folder / 'config.json'} is none that transformers can read: {reason}") from error


def _weights(folder: Path) -> dict[str, Stored]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ParameterError(f"{index} is damaged: {error}") from error
    elif (folder / "model.safetensors").exists():
        files = ["model.safetensors"]
    else:
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        found = f"has pickled weights ({', '.join(pickled)}), which may run code" if pickled else "has no weights"
        raise ParameterError(f"{folder} {found}; save them as safetensors: model.save_pretrained(folder)")
    if outside := [name for name in files if not isinstance(name, str) or Path(name).name != name]:
        raise ParameterError(f"{index} is damaged: {outside[0]!r} is no name of a file in {folder}")
    return {name: item for file in files for name, item in stored_in(folder / file).items()}


def whole(checkpoint: Checkpoint) -> Any:
    """The model with its weights in memory, in its own dtype, in evaluation mode."""
    from porism.testbeds.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint.folder)


def hollow(config: Any, architecture: str, dtype: torch.dtype | None = None) -> Any:
    """The model of a configuration whose parameters are on the meta device and whose buffers are real."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    head = next((head for end, head in _HEADS.items() if architecture.endswith(end)), None)
    if head is None:
        raise ParameterError(f"no model {architecture!r} is known here; known endings: {', '.join(_HEADS)}")
    try:
        with _EmptyOnMeta(), init_empty_weights(include_buffers=False):
            model = getattr(transformers(), head[0]).from_config(config, dtype=dtype or config.dtype)
    except (ValueError, TypeError, RuntimeError, KeyError, ImportError) as error:
        raise ParameterError(
            f"transformers cannot build {architecture}: {' '.join(str(error).split())[:300]}"
        ) from error
    model.tie_weights()
    return model.eval()


class _EmptyOnMeta(TorchFunctionMode):
    """``torch.empty`` on the meta device, so that no matrix is allocated on the way either; buffers are filled ones."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)


def dtype_of(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype in which transformers would load it: that of the configuration, else of the first floating tensor."""
    if isinstance(checkpoint.config.dtype, torch.dtype):
        return checkpoint.config.dtype
    found = (item.dtype for item in checkpoint.stored.values() if item.dtype.is_floating_point)
    return next(found, torch.float32)


def by_module(checkpoint: Checkpoint, model: nn.Module) -> dict[str, Stored]:
    """The tensors under the names that the model gives them; old checkpoints have other names on the disk.

    Raises
    ------
    PorismError
        If tensors must be converted and not only renamed, as for fused experts: such a model is loaded whole.
    """
    expected = model.state_dict()
    try:
        renamed = _renamed(checkpoint, model, expected)
    except (ImportError, AttributeError, TypeError):  # another version of transformers
        renamed = dict(checkpoint.stored)
    wrong = [name for name in expected if name in renamed and renamed[name].shape != tuple(expected[name].shape)]
    shared = {id(p): n for n, p in model.named_parameters(remove_duplicate=False) if n in renamed}
    known = dict(model.named_parameters(remove_duplicate=False))
    missing = [n for n in expected if n not in renamed and not (n in known and id(known[n]) in shared)]
    if wrong or missing:
        raise PorismError(
            f"{checkpoint.folder} cannot be read layer by layer: {', '.join((wrong or missing)[:4])} "
            f"{'has another shape' if wrong else 'is missing'} there; load it whole with a larger --memory"
        )
    return {name: item for name, item in renamed.items() if name in expected}


def _renamed(checkpoint: Checkpoint, model: nn.Module, expected: dict[str, Any]) -> dict[str, Stored]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [r for r in get_model_conversion_mapping(model) if isinstance(r, WeightRenaming)]  # type: ignore[arg-type]
    prefix = getattr(model, "base_model_prefix", None)
    return {
        rename_source_key(name, renamings, [], prefix, expected)[0]: item for name, item in checkpoint.stored.items()
    }
