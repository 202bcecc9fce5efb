"""Problems that papers share: plain functions ``f(rng, **sizes) -> data``, small trained models, a cache for both.

Importing this package imports neither torch nor transformers; the models' names are loaded when first used.
"""

from porism.lazy import lazily
from porism.testbeds.cache import cached
from porism.testbeds.digits import Digits, digits
from porism.testbeds.language import Corpus, Gaps, blocks, corpus, missing_vowels, windows

_NAMES = {
    "networks": ("mlp", "torch_generator"),
    "trained": ("images", "tiny_bert", "tiny_llama", "tiny_vit"),
    "training": ("accuracy", "bits_per_character", "perplexity", "train"),
    "checkpoint": ("load_checkpoint",),
    "weights": ("digest", "trained_once"),
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _HOME)

__all__ = [
    "Corpus",
    "Digits",
    "Gaps",
    "accuracy",
    "bits_per_character",
    "blocks",
    "cached",
    "corpus",
    "digest",
    "digits",
    "images",
    "load_checkpoint",
    "missing_vowels",
    "mlp",
    "perplexity",
    "tiny_bert",
    "tiny_llama",
    "tiny_vit",
    "torch_generator",
    "train",
    "trained_once",
    "windows",
]
