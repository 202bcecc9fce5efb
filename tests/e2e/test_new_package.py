"""A stranger's package from nothing: made, installed into a fresh environment, checked, tested and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest


class Environment:
    """A fresh virtual environment in which the running one's packages can be imported, but not changed."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.packages = folder / "venv" / "lib" / version / "site-packages"
        # addsitedir reads the other environment's .pth files too, where editable installations stand.
        outer = sysconfig.get_path("purelib")
        (self.packages / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")

    def run(self, *command: str, code: int = 0) -> str:
        """Run this environment's Python and return what it prints."""
        done = subprocess.run([self.python, *command], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def pip(self, *command: str) -> None:
        """Change this environment with the outer pip, without network."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", *command]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def keys(self) -> set[str]:
        """Keys of the papers that are listed; none may be broken."""
        listed = json.loads(self.run("-m", "porism", "list", "--json"))
        assert listed["broken"] == []
        return {paper["key"] for paper in listed["papers"]}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.mark.parametrize(
    "kind", ["simulator", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("loss", "estimator"))]
)
def test_a_package_from_nothing(environment: Environment, kind: str) -> None:
    pytest.importorskip("hatchling", reason="builds the new package: pip install 'porism[test]'")
    before = environment.keys()
    assert "sinkd" in before

    made = json.loads(environment.run("-m", "porism", "new", "hello", "--kind", kind, "--json"))
    folder = environment.folder / made["folder"]
    environment.pip("install", "--no-index", "--no-deps", "--no-build-isolation", str(folder))
    assert (environment.packages / "porism_hello" / "hello.py").is_file()
    assert environment.keys() == before | {"hello"}

    verdicts = json.loads(environment.run("-m", "porism", "check", "hello", "--json", "--jobs", "2"))["verdicts"]
    assert {verdict["outcome"] for verdict in verdicts} == {"unrefuted", "holds"}
    os.rename(folder / "src", folder / "moved")  # it is the installed package that is tested
    report = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder))
    assert "passed" in report
    assert "failed" not in report

    environment.pip("uninstall", "--yes", "porism-hello")
    assert environment.keys() == before
