"""What the checks of global state see, and that they leave nothing behind."""

from __future__ import annotations

import concurrent.futures
import decimal
import gc
import io
import locale
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import mpmath
import numpy as np
import pytest
import torch

from porism.registry import load
from porism.testing.claim_checks import check_replicate_keeps_global_state
from porism.testing.imports import foreign_imports
from porism.testing.state import changes, preserved, settings, snapshot


def interrupt(*_: object) -> None: ...


MEDDLING = {
    "the generator of random": lambda: random.random(),
    "numpy's global generator": lambda: np.random.rand(),  # noqa: NPY002
    "numpy's error handling": lambda: np.seterr(all="raise"),
    "numpy's print options": lambda: np.set_printoptions(precision=3),
    "the flushing of denormals": lambda: torch.set_flush_denormal(True),
    "the precision of decimal": lambda: setattr(decimal.getcontext(), "prec", 7),
    "the working directory": lambda: os.chdir("/"),
    "the environment": lambda: os.environ.update(OMP_NUM_THREADS="77"),
    "the module search path": lambda: sys.path.append("/"),
    "the warning filters": lambda: warnings.simplefilter("ignore", DeprecationWarning),
    "the recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "the locale": lambda: locale.setlocale(
        locale.LC_ALL, "C" if "UTF" in locale.setlocale(locale.LC_ALL) else "C.UTF-8"
    ),
    "the signal handlers": lambda: signal.signal(signal.SIGUSR1, interrupt),
    "the garbage collector": gc.disable,
    "the standard streams": lambda: setattr(sys, "stdout", io.StringIO()),
    "torch's global generator": lambda: torch.rand(()),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's gradient mode": lambda: torch.set_grad_enabled(False),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "torch's precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "matplotlib's rcParams": lambda: matplotlib.rcParams.update({"lines.linewidth": 77}),
    "mpmath's precision": lambda: setattr(mpmath.mp, "dps", 77),
}


def test_every_setting_is_meddled_with() -> None:
    assert {setting.name for setting in settings()} == set(MEDDLING)


@pytest.mark.parametrize("name", MEDDLING)
def test_a_change_is_seen_and_put_back(name: str) -> None:
    with preserved():
        MEDDLING[name]()  # some import more of their library at the first call
    before = snapshot()
    with preserved() as changed:
        MEDDLING[name]()
    assert [text.partition(" (")[0] for text in changed] == [name]
    assert changes(before, snapshot()) == []


@pytest.mark.parametrize("seed", [random.seed, np.random.seed, torch.manual_seed])
def test_seeding_is_seen_even_with_the_seed_it_had(seed: Callable[[int], object]) -> None:
    seed(0)
    with preserved() as changed:
        seed(0)
    assert len(changed) == 1


def test_nothing_is_seen_where_nothing_changed() -> None:
    before = snapshot()
    with preserved() as changed:
        np.random.default_rng(0).random()
    assert changed == []
    assert changes(before, snapshot()) == []


def test_a_raising_paper_is_put_right_too() -> None:
    def paper() -> None:
        torch.set_default_dtype(torch.float64)
        raise ZeroDivisionError

    before = snapshot()
    with pytest.raises(ZeroDivisionError), preserved():
        paper()
    assert changes(before, snapshot()) == []


def start_thread(stop: threading.Event) -> None:
    threading.Thread(target=stop.wait, name="left running").start()


def start_process(stop: threading.Event) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    started = subprocess.Popen(command, stdin=subprocess.PIPE)
    kept.append(started)


def open_file(stop: threading.Event) -> None:
    kept.append(open(os.devnull))  # noqa: SIM115 - to be seen


def open_descriptor(stop: threading.Event) -> None:
    kept.append(os.open(os.devnull, os.O_RDONLY))


def leave_file(stop: threading.Event) -> None:
    Path("left.csv").write_text("x")


kept: list[Any] = []
LEAKS = {
    start_thread: "the threads (left running)",
    start_process: "the child processes (",
    open_file: f"the open files ({os.devnull})",
    open_descriptor: f"the open files ({os.devnull})",
    leave_file: "the files of its working directory (left.csv is left)",
}


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_what_is_left_running_open_or_lying_about_is_seen(leak: Callable[[threading.Event], None]) -> None:
    stop = threading.Event()
    try:
        with preserved() as changed:
            leak(stop)
        assert any(text.startswith(LEAKS[leak]) for text in changed), changed
    finally:
        stop.set()
        _clear(kept)
    assert not Path("left.csv").exists()


def _clear(left: list[Any]) -> None:
    for item in left:
        if isinstance(item, int):
            os.close(item)
        elif isinstance(item, subprocess.Popen):
            item.communicate()
        else:
            item.close()
    left.clear()


def test_what_ends_with_the_claim_is_no_leak(tmp_path: Path) -> None:
    with preserved() as changed:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
        threading.Thread(target=lambda: None).start()  # is about to end by itself
        subprocess.run([sys.executable, "-c", ""], check=True)
        with open(os.devnull) as file, tempfile.TemporaryFile():
            assert file.read() == ""
    assert changed == []


def test_a_claim_finds_an_empty_folder_and_the_user_keeps_his(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("x")
    with preserved() as changed:
        assert os.listdir() == []
        assert not Path("mine.csv").exists()
    assert changed == []
    assert Path.cwd() == tmp_path


CLAIM = """
import os, sys, threading, warnings
import numpy as np
from annotated_types import Interval
from typing import Annotated
from porism import Paper, always
PAPER = Paper(key="leaky", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("pipeline",), family="f")
STOP = threading.Event()
@always("It is so", where="S")
def claim(rng, *, x: Annotated[float, Interval(ge=0, le=1)] = 0.5) -> float:
    LINE
    return 1.0
"""


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("threading.Thread(target=STOP.wait, daemon=True).start()", "the threads"),
        ("open('results.csv', 'w').close()", "results.csv is left"),
        ("np.seterr(all='raise')", "numpy's error handling"),
        ("warnings.simplefilter('error')", "the warning filters"),
        ("os.environ['OMP_NUM_THREADS'] = '8'", "the environment"),
        ("os.chdir('/')", "the working directory"),
        ("sys.path.insert(0, '/')", "the module search path"),
    ],
)
def test_a_claim_that_leaks_is_caught_by_conformance(tmp_path: Path, line: str, seen: str) -> None:
    path = tmp_path / "leaky.py"
    path.write_text(CLAIM.replace("LINE", line))
    loaded = load(str(path))
    before = snapshot()
    with pytest.raises(AssertionError, match=f"running claim claim changes .*{seen}"):
        check_replicate_keeps_global_state(loaded)
    assert changes(before, snapshot()) == []
    vars(loaded.module)["STOP"].set()


def test_imports_that_run_when_a_file_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "strangers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_engine.py").write_text("import torch\nfrom . import paper\n")
    (package / "paper.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from torch import nn as network\n"
        "from ._engine import helper\n"
        "if TYPE_CHECKING:\n    import sympy\n"
        "else:\n    import json\n"
        "def f():\n    import sklearn\n"
        "try:\n    import jax\nexcept ImportError:\n    jax = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    foreign = foreign_imports(package / "paper.py", "strangers.paper")
    ignored = {("__future__", "annotations"), ("typing", "TYPE_CHECKING")}
    assert foreign - ignored == {("torch", "nn"), ("torch", ""), ("json", "")}
