"""Speculative decoding: a cheap draft proposes tokens, the target verifies them in one call, its law unchanged."""

from porism.lazy import lazily

_NAMES = {
    "_engine": ("speculative_generate",),
    "_drafts": ("ModelDraft", "PromptLookup"),
    "_proposal": ("Proposal",),
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _HOME)

__all__ = [
    "ModelDraft",
    "PromptLookup",
    "Proposal",
    "speculative_generate",
]
