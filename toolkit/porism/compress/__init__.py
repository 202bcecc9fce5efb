"""``porism compress``: a published compressor on a model of one's own, measured, written, and loaded again.

:func:`compress` writes a folder, :func:`load` gives the model back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from porism.lazy import lazily

if TYPE_CHECKING:
    from porism.compress.run import compress
    from porism.compress.saved import load

__getattr__, __dir__ = lazily(__name__, {"compress": "run", "load": "saved"})

__all__ = ["compress", "load"]
