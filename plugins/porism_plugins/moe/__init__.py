"""Mixtures of experts: feed-forward layers of which each token uses a part."""

from porism.lazy import lazily

_NAMES = {
    "_engine": (
        "Experts",
        "HashRouter",
        "Load",
        "MoE",
        "RandomRouter",
        "Routing",
        "TokenIds",
        "TopKRouter",
        "auxiliary_loss",
        "balance_loss",
        "balanced_table",
        "layers",
        "loads",
        "random_table",
    ),
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _HOME)

__all__ = [
    "Experts",
    "HashRouter",
    "Load",
    "MoE",
    "RandomRouter",
    "Routing",
    "TokenIds",
    "TopKRouter",
    "auxiliary_loss",
    "balance_loss",
    "balanced_table",
    "layers",
    "loads",
    "random_table",
]
