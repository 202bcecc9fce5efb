"""Small Llama, BERT and ViT models of transformers, trained here on real text and digits, once for each machine.

The arguments decide every bit (on one kind of processor and one version of torch); the first call trains for half a
minute and later ones read the cache. Each call returns a model of its own, which the caller may change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
import transformers
from annotated_types import Interval

from porism.errors import ParameterError
from porism.parameters import validated
from porism.testbeds.language import ALPHABET, MASK, windows
from porism.testbeds.weights import digest, trained_once

Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]
Layers = Annotated[int, Interval(ge=1, le=12)]
Hidden = Annotated[int, Interval(ge=16, le=512)]
Steps = Annotated[int, Interval(ge=1, le=100_000)]

_HEADS = 4


@validated
def tiny_llama(
    tokens: np.ndarray,
    *,
    seed: Seed = 0,
    layers: Layers = 2,
    hidden: Hidden = 96,
    tied: bool = False,
    length: Annotated[int, Interval(ge=2, le=256)] = 128,
    steps: Steps = 800,
) -> Any:
    """A language model of characters: Llama with four heads that share two of keys and values.

    Parameters
    ----------
    tokens
        Text to train on, codes of :data:`porism.testbeds.language.ALPHABET`, shape (n,).
    seed
        Of the initial weights and the order of the windows.
    layers, hidden
        Blocks and width, a multiple of 8; feed-forward layers are twice as wide.
    tied
        Whether the output head is the embedding.
    length
        Characters in a training window; the model takes up to 1,024.
    steps
        Of 8 windows each.

    Returns
    -------
    LlamaForCausalLM
        float32 on the CPU, in evaluation mode.

    Raises
    ------
    ParameterError
        If an argument is out of its range.

    Examples
    --------
    >>> from porism.testbeds import corpus
    >>> text = corpus(np.random.default_rng(0))
    >>> model = tiny_llama(text.train, hidden=32, layers=1, steps=5)
    >>> model(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 96])
    """
    codes = _codes(tokens)
    config = transformers.LlamaConfig(
        vocab_size=len(ALPHABET),
        hidden_size=_multiple(hidden, 2 * _HEADS),
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS // 2,
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
    )

    def batches(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        while True:
            ids = torch.from_numpy(windows(rng, codes, batch=8, length=length))
            yield {"input_ids": ids, "labels": ids, "use_cache": False}

    return trained_once(
        "tiny-llama",
        lambda: transformers.LlamaForCausalLM(config),
        batches,
        seed=seed,
        steps=steps,
        learning_rate=6e-3,
        key={"config": config.to_json_string(), "data": digest(codes), "length": length},
    )


@validated
def tiny_bert(
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: Seed = 0,
    layers: Layers = 2,
    hidden: Hidden = 64,
    steps: Steps = 800,
) -> Any:
    """A BERT encoder that classifies windows of text, such as those of :func:`porism.testbeds.missing_vowels`.

    Parameters
    ----------
    x, y
        Codes (or ``MASK``) of shape (n, length) with length up to 512, and classes 0, 1, ... of shape (n,).
    seed
        Of the initial weights and the order of the windows.
    layers, hidden
        Blocks and width, a multiple of 4; feed-forward layers are twice as wide.
    steps
        Of 64 windows each.

    Returns
    -------
    BertForSequenceClassification
        float32 on the CPU, in evaluation mode, with as many classes as ``y`` has.

    Raises
    ------
    ParameterError
        If an argument is out of its range.

    Examples
    --------
    >>> x, y = np.array([[1, 2, 3], [4, 5, 6]]), np.array([0, 1])
    >>> tiny_bert(x, y, hidden=16, layers=1, steps=2)(torch.from_numpy(x)).logits.shape
    torch.Size([2, 2])
    """
    codes, labels = _codes(x, dimensions=2, largest=MASK), _labels(x, y)
    config = transformers.BertConfig(
        vocab_size=MASK + 1,
        hidden_size=_multiple(hidden, _HEADS),
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        max_position_embeddings=512,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
        **_classes(labels),
    )
    return trained_once(
        "tiny-bert",
        lambda: transformers.BertForSequenceClassification(config),
        lambda rng: _labelled(rng, "input_ids", codes, labels, batch=64),
        seed=seed,
        steps=steps,
        learning_rate=2e-3,
        key={"config": config.to_json_string(), "data": digest(codes, labels)},
    )


@validated
def tiny_vit(
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: Seed = 0,
    layers: Layers = 3,
    hidden: Hidden = 64,
    steps: Steps = 400,
) -> Any:
    """A vision transformer on digits of 8 x 8 pixels, cut into 16 patches of 2 x 2.

    Parameters
    ----------
    x, y
        Images in [0, 1] of shape (n, 64), as of :func:`porism.testbeds.digits`, and classes of shape (n,).
    seed
        Of the initial weights and the order of the images.
    layers, hidden
        Blocks and width, a multiple of 4; feed-forward layers are twice as wide.
    steps
        Of 64 images each.

    Returns
    -------
    ViTForImageClassification
        float32 on the CPU, in evaluation mode; called with :func:`images`.

    Raises
    ------
    ParameterError
        If an argument is out of its range.

    Examples
    --------
    >>> x, y = np.zeros((4, 64), np.float32), np.array([0, 1, 2, 3])
    >>> tiny_vit(x, y, hidden=16, layers=1, steps=2)(images(x)).logits.shape
    torch.Size([4, 4])
    """
    pixels, labels = images(x), _labels(x, y)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=_multiple(hidden, _HEADS),
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        initializer_range=0.05,
        **_classes(labels),
    )
    return trained_once(
        "tiny-vit",
        lambda: transformers.ViTForImageClassification(config),
        lambda rng: _labelled(rng, "pixel_values", pixels.numpy(), labels, batch=64),
        seed=seed,
        steps=steps,
        learning_rate=2e-3,
        key={"config": config.to_json_string(), "data": digest(pixels.numpy(), labels)},
    )


def images(x: np.ndarray) -> torch.Tensor:
    """Rows of 64 pixels in [0, 1] as a vision model takes them: float32 of shape (n, 1, 8, 8).

    Raises
    ------
    ParameterError
        If the shape or the range is another.

    Examples
    --------
    >>> images(np.zeros((3, 64))).shape
    torch.Size([3, 1, 8, 8])
    """
    pixels = np.asarray(x, dtype=np.float32)
    if pixels.ndim != 2 or pixels.shape[1] != 64 or not len(pixels):
        raise ParameterError(f"x must have shape (n, 64) with n >= 1, got {pixels.shape}")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ParameterError("x must be in [0, 1]")
    return torch.from_numpy(pixels.reshape(-1, 1, 8, 8).copy())


def _labelled(
    rng: np.random.Generator, name: str, x: np.ndarray, y: np.ndarray, *, batch: int
) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        rows = rng.integers(len(x), size=batch)
        yield {name: torch.from_numpy(x[rows]), "labels": torch.from_numpy(y[rows])}


def _codes(tokens: np.ndarray, *, dimensions: int = 1, largest: int = len(ALPHABET) - 1) -> np.ndarray:
    codes = np.asarray(tokens)
    if codes.ndim != dimensions or not codes.size or codes.dtype.kind not in "iu":
        raise ParameterError(f"codes must be integers in {dimensions} dimensions, got {codes.dtype} {codes.shape}")
    if not 0 <= codes.min() <= codes.max() <= largest:
        raise ParameterError(f"codes must be in [0, {largest}], got {codes.min()} to {codes.max()}")
    return codes.astype(np.int64)


def _labels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    labels = np.asarray(y)
    if labels.shape != np.shape(x)[:1] or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() < 1:
        raise ParameterError(f"y must be classes 0, 1, ..., one for each of {len(x)} rows, at least two of them")
    return labels.astype(np.int64)


def _classes(labels: np.ndarray) -> dict[str, Any]:
    return {"num_labels": int(labels.max()) + 1}


def _multiple(hidden: int, of: int) -> int:
    if hidden % of:
        raise ParameterError(f"hidden must be a multiple of {of}, got {hidden}")
    return hidden
