"""Profiles and isolation shared by every test and doctest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Small and repeatable by default; `HYPOTHESIS_PROFILE=large pytest` looks further.
settings.register_profile("ci", max_examples=30, derandomize=True, deadline=None, database=None)
settings.register_profile("large", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole run, all workers included, so that tiny models are trained once."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared_cache: Path) -> None:
    """Records of a test stay in its own folder; nothing of the user's is read or written."""
    monkeypatch.setenv("PORISM_HOME", str(tmp_path / "porism-home"))
    monkeypatch.setenv("PORISM_CACHE", str(shared_cache))
    monkeypatch.delenv("PORISM_PLUGINS", raising=False)
    monkeypatch.delenv("PORISM_STRICT", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
