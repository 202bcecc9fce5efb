"""The wheel holds every file of the four packages, and the base installation works without the extras."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["toolkit/porism", "sims/porism_sims", "theory/porism_theory", "plugins/porism_plugins"]
EXTRAS = ("torch", "sympy", "sklearn", "matplotlib", "jinja2", "distributed", "ot")


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to((ROOT / folder).parent))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["list"], 0, "sinkd"),
        (["check", "TOY"], 0, "toy.square_is_convex\talways\tunrefuted"),
        (["explore", "TOY.square_is_convex", "--cases", "20"], 0, "no counterexample"),
        (["run", "TOY", "--steps", "2"], 0, "sum\t"),
        (["doctor"], 0, "wait for an extra"),
        (["show", "camero"], 2, "pip install 'porism[torch]'"),
        (["show", "sinkd"], 2, "pip install 'porism[hf]'"),
        (["figure", "TOY"], 2, "pip install 'porism[plots]'"),
        (["report", "TOY"], 2, "pip install 'porism[plots]'"),
    ],
)
def test_the_base_installation_works_without_the_extras(
    tmp_path: Path, toy: str, arguments: list[str], code: int, message: str
) -> None:
    """Extras are hidden from a real process, in the parent and in its workers."""
    lean = Path(toy).read_text().replace("import sympy\n", "").replace('needs=("theory",), ', "")
    Path(toy).write_text(
        lean.partition("@proved")[0].replace(", proved", "") + "@figure" + lean.partition("@figure")[2]
    )
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib import metadata\n"
        f"for name in {EXTRAS}:\n    sys.modules[name] = None\n"
        "real = metadata.version\n"
        "def version(name):\n"
        "    if name.lower() in ('torch', 'sympy', 'scikit-learn', 'matplotlib', 'jinja2'):\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.version = version\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "hide")}
    command = [sys.executable, "-m", "porism", *(a.replace("TOY", toy) for a in arguments)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
