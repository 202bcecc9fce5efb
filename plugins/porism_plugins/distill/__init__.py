"""Distillation: an engine for any two modules, and papers on what to match, where and when."""

from porism.lazy import lazily

_NAMES = {
    "_engine": (
        "Attentions",
        "Custom",
        "Distillation",
        "Distilled",
        "Logits",
        "Seen",
        "States",
        "Task",
        "Term",
        "match_layers",
        "ramp",
        "state_of",
    ),
    "_consistency": ("consistency", "disagreement"),
    "_losses": ("js_divergence", "kl_divergence", "reverse_kl_divergence"),
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _HOME)

__all__ = [
    "Attentions",
    "Custom",
    "Distillation",
    "Distilled",
    "Logits",
    "Seen",
    "States",
    "Task",
    "Term",
    "consistency",
    "disagreement",
    "js_divergence",
    "kl_divergence",
    "match_layers",
    "ramp",
    "reverse_kl_divergence",
    "state_of",
]
