"""``porism compress`` in real processes: a memory limit, ``kill -9`` at every step, a disk that takes no more."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from porism.compress import compress, load, output
from porism.testbeds.language import text

HIDDEN = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
CHARACTERS = {"vocab_size": 96, "bos_token_id": None, "eos_token_id": None}
PLATON = {"remaining": 0.5, "steps": 40}

# Compress a small model, then a large one of the same sort, and say by how much the memory rose for the second.
LARGE = """
import json, resource, sys
from pathlib import Path
import torch, transformers
from porism.compress import compress
from porism.compress.tensors import ShardWriter

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))

def write(folder, dtype, **sizes):
    config = transformers.LlamaConfig(vocab_size=96, bos_token_id=None, eos_token_id=None, num_attention_heads=4,
                                      num_key_value_heads=1, architectures=["LlamaForCausalLM"], dtype=dtype, **sizes)
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in transformers.LlamaForCausalLM(config).named_parameters()}
    generator, places = torch.Generator().manual_seed(0), {}
    parts = sorted({name.split("layers.")[1].split(".")[0] if "layers." in name else "x" for name in shapes})
    for part in parts:
        file = f"model-{part}.safetensors"
        with ShardWriter(folder / file) as writer:
            for name, shape in shapes.items():
                if (f"layers.{part}." in name) if part != "x" else ("layers." not in name):
                    values = torch.randn(shape, generator=generator) * 0.02 if len(shape) > 1 else torch.ones(shape)
                    writer.add(name, values.to(dtype))
                    places[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))

place, method, options, hidden, layers, dtype, room = sys.argv[1:]
place, hidden, dtype = Path(place), int(hidden), getattr(torch, dtype)
common = {"calibrate": place / "text.txt", "window": 32, "samples": 8, "batch_size": 4, "options": json.loads(options)}
small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
write(place / "small", dtype, **small)
compress(place / "small", method, place / "small-out", memory=1, **common)
size = write(place / "large", dtype, hidden_size=hidden, intermediate_size=8 * hidden // 3, num_hidden_layers=int(layers))
Path("/proc/self/clear_refs").write_text("5")
before, limit = status("VmRSS"), status("VmData") + int(room)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
report = compress(place / "large", method, place / "large-out", **common)
largest = hidden * (8 * hidden // 3)
print(json.dumps({"size": size, "rise": status("VmHWM") - before, "largest": largest * dtype.itemsize,
                  "streamed": report["streamed"], "layers": len(report["layers"]), "seconds": report["seconds"]}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.LlamaConfig(**HIDDEN, **CHARACTERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    (tmp_path / "text.txt").write_text(text()[:4000])
    return tmp_path


def large(
    folder: Path, method: str, options: dict[str, Any], *, hidden: int, layers: int, dtype: str, room: int
) -> Any:
    (folder / "text.txt").write_text(text()[:320])
    arguments = [folder, method, json.dumps(options), hidden, layers, dtype, room]
    done = subprocess.run(
        [sys.executable, "-c", LARGE, *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_checkpoint_larger_than_the_memory_limit(tmp_path: Path) -> None:
    found = large(tmp_path, "nowag", {"mode": "prune"}, hidden=640, layers=12, dtype="float32", room=64_000_000)
    assert found["size"] > 3 * 64_000_000 and found["streamed"] and found["layers"] == 84
    assert found["rise"] < 64_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [("nowag", {"mode": "prune"}), ("loftq", {"rank": 16})],
    ids=["nowag", "loftq"],
)
def test_a_checkpoint_of_600_megabytes_in_a_third_of_it(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    found = large(tmp_path, method, options, hidden=1024, layers=28, dtype="bfloat16", room=200_000_000)
    print(found)
    assert found["size"] > 550_000_000 and found["streamed"]
    assert found["rise"] < 200_000_000


def forked(work: Callable[[Callable[[str], None]], Any], stop: Callable[[str], bool] = lambda message: False) -> Any:
    """Run work in a forked process, which is killed at the first message that says so; its messages, and its end."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(ours)

            def say(message: str) -> None:
                os.write(theirs, f"{message}\n".encode())
                if stop(message):
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                work(say)
                code = 0
            except Exception as error:
                os.write(theirs, f"error: {error}\n".encode())
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as file:
        messages = file.read().splitlines()
    return messages, os.waitpid(child, 0)[1]


def test_killed_at_any_step_nothing_half_written_has_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, exchange, publish = folder / "out", output._exchange, output._publish

    def work(say: Callable[[str], None], **options: Any) -> None:
        def publishing(*paths: Path) -> None:
            say("publishing")
            publish(*paths)

        def exchanging(*paths: Path) -> None:
            say("exchanging")
            exchange(*paths)
            say("exchanged")

        monkeypatch.setattr(output, "_publish", publishing)
        monkeypatch.setattr(output, "_exchange", exchanging)
        monkeypatch.setattr("porism.compress.run.verify", lambda *a, **k: say("verified"))
        compress(folder / "llama", "platon", out, calibrate=folder / "text.txt", samples=8, overwrite=True,
                 options=PLATON | options, progress=say)  # fmt: skip

    messages, status = forked(work)
    assert status == 0 and messages[-1] == "publishing"
    whole = {path.name for path in out.iterdir()}
    (out / "mark").write_text("old")
    steps = [*messages, "exchanging"]
    assert len(steps) > 5
    for step in steps:
        _, status = forked(work, lambda message, step=step: message == step)
        assert os.WTERMSIG(status) == signal.SIGKILL, step
        assert {path.name for path in out.iterdir()} == whole | {"mark"}, step
    _, status = forked(work, lambda message: message == "exchanged")
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert {path.name for path in out.iterdir()} == whole  # complete, and the new one
    for path in out.iterdir():
        path.unlink()
    out.rmdir()
    for step in messages:
        forked(work, lambda message, step=step: message == step)
        assert not out.exists(), step
    messages, status = forked(work)
    assert status == 0 and {path.name for path in out.iterdir()} == whole
    assert sorted(path.name for path in folder.iterdir()) == ["llama", "out", "text.txt"]


@pytest.mark.parametrize("memory", [None, 1000], ids=["whole", "streamed"])
def test_a_disk_that_takes_no_more_is_one_line(folder: Path, memory: int | None) -> None:
    def work(say: Callable[[str], None]) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        compress(folder / "llama", "loftq", folder / "out", memory=memory, options={"rank": 4})

    messages, status = forked(work)
    assert status != 0
    assert messages[-1].startswith("error: cannot write ") and "File too large" in messages[-1]
    assert sorted(path.name for path in folder.iterdir()) == ["llama", "text.txt"]


def command(*arguments: Any, cwd: Path) -> tuple[int, str, str]:
    code = "from porism.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "compress", *map(str, arguments)], cwd=cwd, check=False,
                          capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_whole(folder: Path) -> None:
    arguments = ["llama", "--with", "platon", "--remaining", 0.5, "--steps", 40, "--structured", "--samples", 8,
                 "--calibrate", "text.txt", "-o", "small"]  # fmt: skip
    code, out, err = command(*arguments, cwd=folder)
    assert code == 0, err
    assert "loaded again in a fresh process: the same bits on" in out
    assert out.splitlines()[-1] == str(folder / "small/report.html")
    assert "it/s" not in err
    assert load(folder / "small").config.num_key_value_heads == 2
    code, out, err = command(*arguments, "--json", cwd=folder)
    assert code == 2 and err.splitlines()[-1].endswith("small exists; choose another name with -o, or give --overwrite")


def test_a_factory_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))\n"
    )
    np.savez(tmp_path / "x.npz", x=np.ones((3, 64), np.float32))
    arguments = ["mine:build", "--with", "loftq", "--rank", 4, "--evaluate", "x.npz", "-o", "small", "--json"]
    code, out, err = command(*arguments, cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["quality"]["measure"] == "relative output change"
