"""``porism.compress`` on small checkpoints and factories, whole and layer by layer, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from porism import compress as package
from porism.compress import compress, load, output, run, verify
from porism.compress.data import Data, divided
from porism.compress.evaluation import evaluate
from porism.compress.measure import flops
from porism.compress.methods import compressors, method_of
from porism.compress.offload import emptied, fill, reading
from porism.compress.streaming import can_stream
from porism.compress.tensors import ShardWriter, read, stored_in
from porism.errors import ParameterError, PorismError
from porism.testbeds import perplexity
from porism.testbeds.language import ALPHABET, encode, text

PAPER = '''"""A toy compressor: each row of a matrix in few bits with a scale, the least useful weights dropped."""

import copy
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import nn
from torch.nn import functional as F

from porism import Paper
from porism.surgery import input_statistics, linear_layers, matrix, replace

PAPER = Paper(
    key="toy", title="A toy", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001", kinds=("compressor",),
    family="toys", needs=("torch",), method="toy",
)


class RowLinear(nn.Module):
    """A linear layer of 8-bit codes with a scale a row."""

    def __init__(self, in_features, out_features, *, bias=True, dtype="float32", device=None, conv1d=False):
        super().__init__()
        self.in_features, self.out_features, self.conv1d = in_features, out_features, conv1d
        self.dtype = getattr(torch, dtype)
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.register_buffer("scales", torch.zeros(out_features, 1, device=device))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=self.dtype, device=device)) if bias else None

    @property
    def weight(self):
        return (self.codes * self.scales).to(self.dtype)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)

    def nbytes(self):
        return sum(t.nbytes for t in self.state_dict().values())

    def options(self):
        dtype = str(self.dtype).removeprefix("torch.")
        return {"bias": self.bias is not None, "dtype": dtype, "conv1d": self.conv1d}

    @classmethod
    def from_options(cls, in_features, out_features, *, device=None, **options):
        return cls(in_features, out_features, device=device, **options)

    def _apply(self, fn, recurse=True):
        scales = self.scales
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)
        self.scales = scales.to(self.scales.device)
        return self


LAYERS = (RowLinear,)


def compress_layer(name, weight, second_moment, *, bits=8, drop=0.0, plain=False):
    score = weight.abs() if second_moment is None else weight.abs() * second_moment.sqrt()
    kept = torch.where(score >= score.flatten().kthvalue(max(1, int(drop * score.numel()))).values, weight, 0.0)
    scales = kept.abs().amax(1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    codes = (kept / scales).round()
    if plain:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(codes * scales)
        return layer
    layer = RowLinear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
    layer.codes.copy_(codes)
    layer.scales.copy_(scales)
    return layer


def squares(before, x):
    total = torch.cat([x.square().sum(0, dtype=torch.float64), x.new_full((1,), len(x), dtype=torch.float64)])
    return total if before is None else before + total


def toy(model, /, *, calibration: Any = None, bits: Annotated[int, Interval(ge=2, le=8)] = 8,
        drop: Annotated[float, Interval(ge=0, lt=1)] = 0.0, plain: bool = False, limit: int | None = None,
        inplace: bool = False, include: Any = ("*",), exclude: Any = ("lm_head",)) -> nn.Module:
    """Round each row of every linear layer.

    Parameters
    ----------
    bits
        Of a code.
    """
    model = model if inplace else copy.deepcopy(model)
    layers = linear_layers(model, include=include, exclude=exclude)
    found = {} if calibration is None else input_statistics(model, layers, calibration, squares)
    for name, old in layers.items():
        moment = (found[name][:-1] / found[name][-1]).float() if name in found else None
        with torch.no_grad():
            new = compress_layer(name, matrix(old).float(), moment, bits=bits, drop=drop, plain=plain)
        new = new.to(old.weight.dtype)
        new.bias = old.bias
        if plain:
            matrix(old).data.copy_(new.weight)
        else:
            new.conv1d = not isinstance(old, nn.Linear)
            replace(model, name, new.train(old.training))
    return model
'''

FACTORY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))

def shared():
    layer = nn.Linear(20, 20)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(20, 3))

def broken():
    raise RuntimeError("no such thing")

def number():
    return 3
"""
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def _verified_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of the fresh process in this one, which saves its start; tests/e2e has real ones."""

    def work(arguments: Any, *, input: str, **options: Any) -> Any:
        result = json.dumps(verify._work(json.loads(input)))
        return type("Done", (), {"returncode": 0, "stdout": result, "stderr": ""})

    monkeypatch.setattr(verify.subprocess, "run", work)
    monkeypatch.setattr("porism.compress.measure.PAIRS", 3)


@pytest.fixture
def toy(tmp_path: Path) -> str:
    path = tmp_path / "toy.py"
    path.write_text(PAPER)
    return str(path)


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "models.py").write_text(FACTORY)
    return f"{tmp_path / 'models.py'}:build"


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(text()[:6000])
    return path


def seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def llama(
    folder: Path, *, vocabulary: int = 96, tied: bool = False, dtype: torch.dtype = torch.float32, **saving: Any
) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, num_key_value_heads=2, tie_word_embeddings=tied, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=None, initializer_range=0.2, **SIZES,
    )  # fmt: skip
    seeded(lambda: transformers.LlamaForCausalLM(config)).to(dtype).save_pretrained(folder, **saving)
    return folder


def classifier(folder: Path, kind: str) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=50, num_labels=3, max_position_embeddings=64, **SIZES)
        model = seeded(lambda: transformers.BertForSequenceClassification(config))
        rows = {"input_ids": rng.integers(50, size=(40, 8)), "attention_mask": np.ones((40, 8), dtype=np.int64)}
    else:
        config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **SIZES)
        model = seeded(lambda: transformers.ViTForImageClassification(config))
        rows = {"pixel_values": rng.normal(size=(40, 1, 8, 8)).astype(np.float32)}
    model.save_pretrained(folder)
    return folder, rows | {"labels": labels}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


IDS = torch.arange(40)[None]


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model(ids).logits


# What comes out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_layer_by_layer_gives_the_bits_of_the_whole_model(
    tmp_path: Path, toy: str, story: Path, dtype: torch.dtype, tied: bool
) -> None:
    folder = llama(tmp_path / "llama", tied=tied, dtype=dtype)
    options = {"calibrate": story, "window": 64, "options": {"drop": 0.3}}
    whole = compress(folder, toy, tmp_path / "whole", **options)
    streamed = compress(folder, toy, tmp_path / "streamed", memory=1000, **options)
    assert (whole["streamed"], streamed["streamed"]) == (False, True)
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed"))
    for name in ("quality", "parameters", "nonzeros", "bytes", "flops", "layers"):
        assert whole[name] == streamed[name], name
    assert (tmp_path / "whole/porism.json").read_text() == (tmp_path / "streamed/porism.json").read_text()


def test_the_result_is_what_the_method_gives(tmp_path: Path, toy: str, story: Path) -> None:
    folder = llama(tmp_path / "llama")
    report = compress(folder, toy, tmp_path / "out", calibrate=story, evaluate=story, window=64, samples=8,
                      options={"bits": 4})  # fmt: skip
    method, original = method_of(toy).function, transformers.AutoModelForCausalLM.from_pretrained(folder)
    windows = encode(story.read_text())[: 6000 // 64 * 64].reshape(-1, 64)
    calibration = Data({"input_ids": torch.from_numpy(windows)}, language=True)
    chosen = np.random.default_rng(1).permutation(len(windows))[:8]
    ours = method(original, bits=4, calibration=calibration.rows(chosen).batches(8))
    assert torch.equal(logits(ours), logits(load(tmp_path / "out", paper=toy)))
    tokens = encode(story.read_text())
    assert report["quality"]["before"] == pytest.approx(perplexity(original, tokens, length=64), rel=1e-6)
    assert report["quality"]["after"] == pytest.approx(perplexity(ours, tokens, length=64), rel=1e-6)


def test_tied_weights_stay_tied_on_the_disk_and_after(tmp_path: Path, toy: str, story: Path) -> None:
    folder = llama(tmp_path / "llama", tied=True)
    compress(folder, toy, tmp_path / "out", calibrate=story, options={"plain": True})
    assert "lm_head.weight" not in tensors_of(tmp_path / "out")
    ours = load(tmp_path / "out")
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(ours), logits(theirs))


def test_transformers_does_not_fill_compressed_layers_with_random_numbers(
    tmp_path: Path, toy: str, story: Path
) -> None:
    compress(llama(tmp_path / "llama"), toy, tmp_path / "out", calibrate=story)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("memory", [None, 1000], ids=["whole", "streamed"])
def test_shards_stay_shards(tmp_path: Path, toy: str, story: Path, memory: int | None) -> None:
    folder = llama(tmp_path / "llama", max_shard_size="40KB")
    before = {path.name for path in folder.glob("*.safetensors")}
    assert len(before) > 2
    compress(folder, toy, tmp_path / "out", calibrate=story, memory=memory, options={"plain": True})
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == before
    places = [
        {n: i.path.name for p in f.glob("*.safetensors") for n, i in stored_in(p).items()}
        for f in (folder, tmp_path / "out")
    ]
    assert places[0] == places[1]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out")), logits(theirs))


@pytest.mark.parametrize("kind", ["bert", "vit"])
@pytest.mark.parametrize("memory", [None, 1000], ids=["whole", "streamed"])
def test_classifiers_are_judged_by_accuracy(tmp_path: Path, toy: str, kind: str, memory: int | None) -> None:
    folder, rows = classifier(tmp_path / kind, kind)
    np.savez(tmp_path / "rows.npz", **rows)
    report = compress(folder, toy, tmp_path / "out", calibrate=tmp_path / "rows.npz", memory=memory)
    assert report["quality"]["measure"] == "accuracy"
    assert 0 <= report["quality"]["before"] <= 1
    assert report["data"]["held_out"] and report["data"]["evaluation_rows"] == 8
    assert report["data"]["calibration_rows"] == 32


@pytest.mark.parametrize("kind", ["llama", "bert", "vit"])
@pytest.mark.parametrize("structured", [False, True], ids=["unstructured", "structured"])
def test_platon_on_each_kind_of_model(tmp_path: Path, story: Path, kind: str, structured: bool) -> None:
    data = story
    if kind == "llama":
        folder = llama(tmp_path / "llama")
    else:
        folder, rows = classifier(tmp_path / kind, kind)
        data = tmp_path / "rows.npz"
        np.savez(data, **rows)
    options = {"remaining": 0.5, "steps": 40, "structured": structured, "learning_rate": 1e-3}
    report = compress(folder, "platon", tmp_path / "out", calibrate=data, samples=16, options=options)
    assert report["nonzeros"]["after"] < 0.9 * report["nonzeros"]["before"]
    assert (report["flops"]["after"] < report["flops"]["before"]) is structured
    assert (report["bytes"]["after"] < 0.9 * report["bytes"]["before"]) is structured
    heads = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    ordinary = not structured or kind == "llama"  # only its config can say how many heads there are
    assert heads == {"model.safetensors" if ordinary else "compressed.safetensors"}
    if ordinary:
        theirs = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
        ours, again = load(tmp_path / "out"), theirs.from_pretrained(tmp_path / "out")
        assert same(dict(ours.state_dict()), dict(again.state_dict()))


def test_a_factory_with_weights_and_the_relative_change(tmp_path: Path, toy: str, factory: str) -> None:
    weights = {"0.weight": torch.randn(16, 20), "0.bias": torch.randn(16), "2.weight": torch.randn(3, 16),
               "2.bias": torch.randn(3)}  # fmt: skip
    save_file(weights, tmp_path / "w.safetensors")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32))
    report = compress(factory, toy, tmp_path / "out", evaluate=tmp_path / "x.npz", weights=tmp_path / "w.safetensors",
                      options={"bits": 4})  # fmt: skip
    assert report["quality"]["measure"] == "relative output change"
    assert 0.01 < report["quality"]["after"] < 0.3
    again = load(tmp_path / "out", model=factory, paper=toy)
    assert [type(layer).__name__ for layer in again] == ["RowLinear", "ReLU", "RowLinear"]
    assert torch.equal(again[0].bias, weights["0.bias"])
    with pytest.raises(ParameterError, match="came from a factory; give it again as model="):
        load(tmp_path / "out", paper=toy)


def test_labels_make_a_factory_a_classifier_that_can_be_trained(tmp_path: Path, factory: str) -> None:
    x = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    save_file(
        {"inputs": torch.from_numpy(x), "labels": torch.from_numpy(x[:, 0] > 0).long()}, tmp_path / "x.safetensors"
    )
    options = {"steps": 60, "structured": True, "learning_rate": 0.01}
    report = compress(factory, "platon", tmp_path / "out", calibrate=tmp_path / "x.safetensors", options=options)
    assert report["quality"]["measure"] == "accuracy"
    assert load(tmp_path / "out", model=factory)[0].out_features < 16


def test_a_shared_module_stays_shared(tmp_path: Path, toy: str, factory: str) -> None:
    shared = factory.replace(":build", ":shared")
    np.savez(tmp_path / "x.npz", x=np.ones((4, 20), np.float32))
    compress(shared, toy, tmp_path / "out", evaluate=tmp_path / "x.npz")
    again = load(tmp_path / "out", model=shared, paper=toy)
    assert again[0] is again[2]
    assert "2.codes" not in tensors_of(tmp_path / "out")


def test_loftq_can_be_trained_after_loading(tmp_path: Path) -> None:
    folder = llama(tmp_path / "llama")
    for memory, place in ((None, "whole"), (1000, "streamed")):
        compress(folder, "loftq", tmp_path / place, memory=memory, options={"rank": 4, "bits": 2})
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed"))
    assert (tmp_path / "whole/porism.json").read_text() == (tmp_path / "streamed/porism.json").read_text()
    trained = {name.rpartition(".")[2] for name, p in load(tmp_path / "whole").named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}


# Options by which the small checkpoints here are compressed by each method at all.
SMALL = {"loftq": {"rank": 4}, "nowag": {"mode": "prune"}, "platon": {"steps": 40}, "losparse": {"steps": 40},
         "homodistil": {"steps": 40}}  # fmt: skip


# What a method that cannot compress a plain Llama into a file says.
REFUSED = {"slimmoe": "no experts that are known here", "moebert": "could not be loaded again"}


@pytest.mark.parametrize("key", REFUSED)
def test_compressors_that_cannot_compress_a_llama_say_why(tmp_path: Path, story: Path, key: str) -> None:
    options = {"steps": 2}
    with pytest.raises(PorismError, match=REFUSED[key]):
        compress(
            llama(tmp_path / "llama"), key, tmp_path / "out", calibrate=story, samples=4, window=32, options=options
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", sorted({*compressors()} - {*REFUSED}))
def test_every_installed_compressor_on_a_llama(tmp_path: Path, story: Path, key: str) -> None:
    method, folder = method_of(key), llama(tmp_path / "llama")
    report = compress(folder, key, tmp_path / "whole", calibrate=story, samples=16, window=64, options=SMALL.get(key))
    assert report["layers"]
    assert logits(load(tmp_path / "whole")).isfinite().all()
    if not can_stream(method, SMALL.get(key, {})):
        compress(folder, key, tmp_path / "streamed", calibrate=story, samples=16, window=64, memory=1000,
                 options=SMALL.get(key))  # fmt: skip
        assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed"))


def test_text_goes_through_the_checkpoints_own_tokenizer(tmp_path: Path, toy: str, story: Path) -> None:
    from tokenizers import Tokenizer, models

    from porism.testbeds.language import ALPHABET

    folder = llama(tmp_path / "llama")
    plain = compress(folder, toy, tmp_path / "plain", calibrate=story, window=64)
    backwards = {character: number for number, character in enumerate(reversed(ALPHABET))}
    tokenizer = Tokenizer(models.BPE(vocab=backwards, merges=[]))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    other = compress(folder, toy, tmp_path / "other", calibrate=story, window=64)
    assert other["data"] == plain["data"]
    assert other["quality"]["before"] != plain["quality"]["before"]  # the same text in other tokens
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "other", local_files_only=True)
    assert again("ab")["input_ids"] == [backwards["a"], backwards["b"]]
    assert not (tmp_path / "plain" / "tokenizer.json").exists()


def test_a_tokenizer_that_is_damaged_is_named(tmp_path: Path, toy: str, story: Path) -> None:
    folder = llama(tmp_path / "llama")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(PorismError, match=r"the tokenizer of .*llama cannot be loaded"):
        compress(folder, toy, tmp_path / "out", calibrate=story)


def test_conv1d_layers(tmp_path: Path, toy: str, story: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=96, n_embd=32, n_layer=1, n_head=4, n_positions=128, bos_token_id=None, eos_token_id=None
    )
    seeded(lambda: transformers.GPT2LMHeadModel(config)).save_pretrained(tmp_path / "gpt")
    whole = compress(tmp_path / "gpt", toy, tmp_path / "whole", calibrate=story, window=64)
    compress(tmp_path / "gpt", toy, tmp_path / "streamed", calibrate=story, window=64, memory=1000)
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed"))
    assert all(row["error"] < 0.02 for row in whole["layers"])


def test_conv1d_layers_that_stay_ordinary(tmp_path: Path, story: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=96, n_embd=32, n_layer=1, n_head=4, n_positions=128, bos_token_id=None, eos_token_id=None
    )
    seeded(lambda: transformers.GPT2LMHeadModel(config)).save_pretrained(tmp_path / "gpt")
    pruning: dict[str, Any] = {"calibrate": story, "window": 64, "options": {"mode": "prune"}}
    whole = compress(tmp_path / "gpt", "nowag", tmp_path / "whole", **pruning)
    streamed = compress(tmp_path / "gpt", "nowag", tmp_path / "streamed", memory=1000, **pruning)
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed"))
    assert [row["nonzeros"] for row in streamed["layers"]] == [row["nonzeros"] for row in whole["layers"]]
    assert streamed["nonzeros"] == whole["nonzeros"]


def test_the_report_says_what_there_was(tmp_path: Path, toy: str, story: Path) -> None:
    report = compress(llama(tmp_path / "llama"), toy, tmp_path / "out", calibrate=story, options={"drop": 0.5})
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    assert report["bytes"]["after"] == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors"))
    assert report["data"]["held_out"]
    row = report["layers"][0]
    assert row["class"] == "RowLinear" and row["bytes_before"] == 4 * 32 * 32 and row["bytes_after"] == 32 * 32 + 4 * 32
    page = (tmp_path / "out/report.html").read_text()
    for part in (
        "toy on",
        "RowLinear",
        "model.layers.0.mlp.up_proj",
        "held out from calibration",
        "perplexity",
        "AMD" if "AMD" in report["machine"]["processor"] else "",
    ):
        assert part in page
    assert "http" not in page.replace("https://arxiv.org/abs/2001.00001", "")


def test_flops_are_those_of_the_products() -> None:
    assert flops(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), torch.ones(3, 8)) == 2 * 3 * (8 * 4 + 4 * 2)


def test_evaluation_puts_the_mode_back_and_hashes_every_bit() -> None:
    model, data = seeded(lambda: nn.Linear(3, 2)).train(), Data({"": torch.randn(5, 3)})
    before = evaluate(model, data, batch_size=2)
    assert model.training and len(before.digests) == 3
    with torch.no_grad():
        model.bias += 1e-6
    assert evaluate(model, data, batch_size=2).digests != before.digests


def test_held_out_rows_are_never_calibrated_on() -> None:
    for data in (Data({"": torch.arange(50)}), Data({"input_ids": torch.arange(50)}, language=True)):
        (calibration, judged), key = divided(data, held_out=True), next(iter(data.inputs))
        together = torch.cat([calibration.inputs[key], judged.inputs[key]])
        assert sorted(together.tolist()) == list(range(50)) and len(judged) == 10


def test_without_data_only_quality_is_missing(tmp_path: Path) -> None:
    report = compress(llama(tmp_path / "llama"), "loftq", tmp_path / "out", options={"rank": 4})
    assert report["quality"] == {"measure": "none", "before": None, "after": None}
    assert report["verified"] == 1


# The parts below


def test_shards_written_here_are_read_by_safetensors_and_back(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(5, dtype=torch.uint8), "b": torch.randn(3, 4).to(torch.bfloat16), "c": torch.tensor(3.5),
        "d": torch.randn(4, 6).T, "e": torch.empty(0, 4), "f": torch.tensor([True, False]), "g": torch.arange(3),
    }  # fmt: skip
    with ShardWriter(tmp_path / "x.safetensors") as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    assert same(load_file(tmp_path / "x.safetensors"), tensors)
    stored = stored_in(tmp_path / "x.safetensors")
    assert same({name: read(item) for name, item in stored.items()}, tensors)
    assert all(item.start % item.dtype.itemsize == 0 for item in stored.values())
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_module_reads_its_weights_only_while_it_is_called(tmp_path: Path) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    save_file(dict(model.state_dict()), tmp_path / "w.safetensors")
    with torch.device("meta"):
        empty = emptied(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert empty(x).isnan().all()
        with reading(empty, stored_in(tmp_path / "w.safetensors")):
            assert torch.equal(empty(x), model(x))
            assert empty[0].weight.isnan().all() and empty[0].weight.untyped_storage().nbytes() == 4
        assert empty(x).isnan().all()
        assert torch.equal(fill(empty, stored_in(tmp_path / "w.safetensors"))(x), model(x))


def test_an_option_that_may_be_none_is_a_flag_without_a_default(toy: str) -> None:
    method = method_of(toy)
    assert method.optional == {"limit"}
    assert list(method.parameters) == ["bits", "drop", "plain", "limit"]
    assert method.parameters["limit"].type is int
    assert "warmup" in method_of("platon").optional


# Everything that can be wrong


def refused(*arguments: Any, match: str, **options: Any) -> None:
    """A mistake is one error, and leaves nothing behind."""
    output_folder = Path(arguments[2])
    before = sorted(output_folder.parent.iterdir())
    with pytest.raises(PorismError, match=match):
        compress(*arguments, **options)
    assert sorted(output_folder.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"options": {"bit": 4}},
            r"toy has no option 'bit'; did you mean 'bits'\? \(known: bits, drop, plain, limit\)",
        ),
        ({"options": {"bits": 9}}, r"bits must be int in \[2, 8\], got 9"),
        ({"options": {"drop": float("nan")}}, r"drop must be float in \[0, 1\), got nan"),
        ({"include": ["q_prj"]}, r"no linear layer matches \['q_prj'\].*; there are: .*q_proj"),
        ({"exclude": ["*"]}, "no linear layer matches"),
        ({"device": "cuda:7"}, r"there is no cuda:7 here \(\d+ CUDA devices\); use --device cpu"),
        ({"device": "gpu"}, "there is no device 'gpu'; give cpu, cuda or cuda:N"),
        ({"window": 1}, "window must be at least 2, got 1"),
        ({"window": 500}, "--window must be at most 256, the positions of the model, got 500"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("memory", [None, 1000], ids=["whole", "streamed"])
def test_bad_arguments(tmp_path: Path, toy: str, story: Path, options: Any, match: str, memory: Any) -> None:
    refused(
        llama(tmp_path / "llama"),
        toy,
        tmp_path / "out",
        match=match,
        **{"calibrate": story, "memory": memory} | options,
    )


def test_an_unknown_flag_is_found_before_the_model_is_looked_at(tmp_path: Path, toy: str) -> None:
    refused(tmp_path / "nothing", toy, tmp_path / "out", options={"bit": 4}, match="toy has no option 'bit'")


def test_methods_that_are_no_compressors_say_what_they_are(tmp_path: Path) -> None:
    folder = llama(tmp_path / "llama")
    refused(folder, "gear", tmp_path / "out", match=r"gear is a cache: give it to model\.generate\(past_key_values=")
    refused(folder, "cosmos", tmp_path / "out", match=r"cosmos is an optimiser.*compressors here: .*platon")
    refused(folder, "platn", tmp_path / "out", match="no paper 'platn'; did you mean 'platon'")


def test_models_that_are_none(tmp_path: Path, toy: str, factory: str) -> None:
    (tmp_path / "empty").mkdir()
    x = tmp_path / "x.npz"
    np.savez(x, x=np.ones((4, 20), np.float32))
    for model, match in (
        (tmp_path / "empty", "has no config.json: not a folder of model.save_pretrained"),
        ("meta-llama/Llama-3.2-1B", "there is no folder meta-llama/Llama-3.2-1B; nothing is downloaded"),
        (x, "is a file; give the folder that save_pretrained wrote"),
        (factory.replace(":build", ":bild"), "has no function 'bild'; did you mean 'build'"),
        (factory.replace(":build", ":broken"), r"broken\(\) fails: RuntimeError: no such thing"),
        (factory.replace(":build", ":number"), r"number\(\) gives int, which is no torch.nn.Module"),
        ("no_such_package.models:build", "no_such_package.models cannot be imported"),
    ):
        refused(model, toy, tmp_path / "out", evaluate=x, match=match)
    refused(factory, toy, tmp_path / "out", match="a module factory needs inputs to be verified with")


def test_checkpoints_that_cannot_be_read(tmp_path: Path, toy: str, story: Path) -> None:
    def changed(name: str, change: Callable[[Path], Any], match: str) -> None:
        folder = tmp_path / name
        shutil.copytree(original, folder)
        change(folder)
        for memory in (None, 1000):
            refused(folder, toy, tmp_path / "out", calibrate=story, memory=memory, match=match)

    def configured(**values: Any) -> Callable[[Path], Any]:
        def change(folder: Path) -> None:
            content = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(content | values))

        return change

    original = llama(tmp_path / "llama", max_shard_size="40KB")
    shards = sorted(path.name for path in original.glob("*.safetensors"))
    changed(
        "cut", lambda f: os.truncate(f / shards[1], (f / shards[1]).stat().st_size - 9), f"{shards[1]}: it is cut off"
    )
    changed("header", lambda f: (f / shards[0]).write_bytes(b"\xff" * 100), f"{shards[0]}: its header is longer")
    changed("gone", lambda f: (f / shards[2]).unlink(), f"{shards[2]}: No such file")
    changed("index", lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json is damaged")
    changed("json", lambda f: (f / "config.json").write_text("{"), "config.json is damaged")
    changed(
        "gptq",
        configured(quantization_config={"quant_method": "gptq"}),
        "is quantised already .by gptq.; start from the floating",
    )
    changed("head", configured(architectures=["LlamaForTokenClassification"]), "holds LlamaForTokenClassification")
    changed(
        "pickled",
        lambda f: [
            p.rename(p.with_suffix(".bin")) for p in [*f.glob("*.safetensors"), f / "model.safetensors.index.json"]
        ],
        "pickled weights",
    )


def test_what_was_compressed_already_is_refused(tmp_path: Path, toy: str, story: Path) -> None:
    compress(llama(tmp_path / "llama"), toy, tmp_path / "out", calibrate=story)
    refused(
        tmp_path / "out",
        toy,
        tmp_path / "again",
        calibrate=story,
        match="its layers are compressed already; start from the original",
    )
    compress(tmp_path / "llama", toy, tmp_path / "plain", calibrate=story, options={"plain": True})
    compress(tmp_path / "plain", toy, tmp_path / "again", calibrate=story)  # an ordinary checkpoint is one


def test_calibration_that_is_none(tmp_path: Path, toy: str, story: Path) -> None:
    folder = llama(tmp_path / "llama")

    def calibrated(path: Path, match: str, **options: Any) -> None:
        refused(folder, toy, tmp_path / "out", calibrate=path, match=match, **options)

    empty, latin, short = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "short.txt"
    empty.write_text(" \n")
    latin.write_bytes(b"\xe9\xff")
    short.write_text("short")
    calibrated(empty, "calibration: .*empty.txt is empty")
    calibrated(latin, "is no text in UTF-8")
    calibrated(short, "has 5 tokens, fewer than one window of 128; give more text or a smaller --window")
    calibrated(tmp_path / "none.txt", "cannot read .*none.txt: No such file")
    np.savez(tmp_path / "ids.npz", input_ids=np.full(400, 96))
    calibrated(tmp_path / "ids.npz", r"input_ids must be in \[0, 96\)")
    (tmp_path / "bad.npz").write_text("no zip")
    calibrated(tmp_path / "bad.npz", "cannot read .*bad.npz")
    refused(folder, "platon", tmp_path / "out", match="platon needs calibration data: give --calibrate FILE")
    story.write_text("x" * 200)
    calibrated(story, "calibration has one window, so that none can be held out")
    story.write_text("x" * 900)
    folder = llama(tmp_path / "other", vocabulary=97)
    calibrated(
        story, "has no tokenizer for .*story.txt, and its vocabulary of 97 is not that of the testbeds' 96 characters"
    )


def test_rows_that_do_not_fit(tmp_path: Path, toy: str, story: Path) -> None:
    folder, rows = classifier(tmp_path / "bert", "bert")

    def given(match: str, **arrays: Any) -> None:
        np.savez(tmp_path / "rows.npz", **arrays)
        refused(folder, toy, tmp_path / "out", calibrate=tmp_path / "rows.npz", match=match)

    refused(
        folder, toy, tmp_path / "out", calibrate=story, match="text is for language models; give .npz or .safetensors"
    )
    given("has arrays of 39 and 40 rows", **rows | {"labels": rows["labels"][:39]})
    given("takes no 'pixels'; its arguments are input_ids, attention_mask", **rows | {"pixels": rows["input_ids"]})
    given("has no inputs beside labels", labels=rows["labels"])
    given("has no rows in input_ids", **{name: value[:0] for name, value in rows.items()})
    folder, rows = classifier(tmp_path / "vit", "vit")
    rows["pixel_values"][3] = np.nan
    given("calibration: pixel_values in .* is not finite", **rows)


@pytest.mark.parametrize("memory", [None, 1000], ids=["whole", "streamed"])
def test_activations_that_are_not_finite(tmp_path: Path, toy: str, story: Path, memory: int | None) -> None:
    folder = llama(tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, toy, tmp_path / "out", calibrate=story, memory=memory, match="not finite")


def test_a_method_that_cannot_go_layer_by_layer_says_so(tmp_path: Path, toy: str, story: Path) -> None:
    folder = llama(tmp_path / "llama")
    match = "do not fit in --memory, and platon must see the whole model"
    refused(folder, "platon", tmp_path / "out", calibrate=story, memory=1000, match=match)
    refused(folder, toy, tmp_path / "out", calibrate=story, memory=1000, options={"limit": 3}, match="with --limit")


def test_a_layer_that_forgets_its_state_is_caught(tmp_path: Path, story: Path) -> None:
    path = tmp_path / "toy.py"
    path.write_text(PAPER.replace('self.register_buffer("scales", torch.zeros(out_features, 1, device=device))',
                                  'self.register_buffer("scales", torch.zeros(out_features, 1, device=device), persistent=False)'))  # fmt: skip
    refused(
        llama(tmp_path / "llama"), str(path), tmp_path / "out", calibrate=story, match="something else in|not finite"
    )


def test_a_layer_that_is_not_declared_is_caught(tmp_path: Path, story: Path) -> None:
    path = tmp_path / "toy.py"
    path.write_text(PAPER.replace("LAYERS = (RowLinear,)", "LAYERS = ()"))
    for memory in (None, 1000):
        refused(llama(tmp_path / "llama"), str(path), tmp_path / "out", calibrate=story, memory=memory, match="LAYERS")


def test_classes_come_from_the_paper_and_never_from_the_file(tmp_path: Path, toy: str, story: Path) -> None:
    compress(llama(tmp_path / "llama"), toy, tmp_path / "out", calibrate=story)
    with pytest.raises(ParameterError, match="toy came from a file of its own; give it as paper="):
        load(tmp_path / "out")
    with pytest.raises(ParameterError, match=r"was compressed by toy, and platon is platon"):
        load(tmp_path / "out", paper="platon")
    record = json.loads((tmp_path / "out/porism.json").read_text())
    next(iter(record["layers"].values()))["class"] = "os.system"
    (tmp_path / "out/porism.json").write_text(json.dumps(record))
    with pytest.raises(ParameterError, match=r"toy has no layer class 'os.system' \(its LAYERS: RowLinear\)"):
        load(tmp_path / "out", paper=toy)
    (tmp_path / "out/porism.json").write_text(json.dumps(record | {"format": 2}))
    with pytest.raises(ParameterError, match="is of format 2, newer than this porism"):
        load(tmp_path / "out", paper=toy)
    (tmp_path / "out/porism.json").write_text("{}")
    with pytest.raises(ParameterError, match="is damaged: it must have format"):
        load(tmp_path / "out", paper=toy)
    with pytest.raises(ParameterError, match=r"has no porism\.json"):
        load(tmp_path / "llama")


# Where it goes


def test_an_output_that_exists_stays_until_the_new_one_is_complete(
    tmp_path: Path, toy: str, story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = llama(tmp_path / "llama"), tmp_path / "out"
    compress(folder, toy, out, calibrate=story)
    before = (out / "porism.json").read_bytes()
    refused(folder, toy, out, calibrate=story, match="out exists; choose another name with -o, or give --overwrite")
    with monkeypatch.context() as patch:
        patch.setattr(run, "verify", lambda *a, **k: (_ for _ in ()).throw(PorismError("no")))
        refused(folder, toy, out, calibrate=story, overwrite=True, options={"bits": 3}, match="no")
    assert (out / "porism.json").read_bytes() == before
    compress(folder, toy, out, calibrate=story, overwrite=True, options={"bits": 3})
    assert json.loads((out / "porism.json").read_text())["options"]["bits"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "out", "story.txt", "toy.py"]


def test_folders_of_others_are_not_overwritten(tmp_path: Path, toy: str, story: Path) -> None:
    folder = llama(tmp_path / "llama")
    refused(folder, toy, folder, calibrate=story, overwrite=True, match="was not written by porism compress")
    refused(folder, toy, story, calibrate=story, overwrite=True, match="is not a folder")


@pytest.mark.parametrize("exchange", [True, False], ids=["at once", "in two steps"])
def test_folders_are_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(output.ctypes, "CDLL", lambda *a, **k: object())
    for content in ("old", "new"):
        with output.staged(tmp_path / "out", overwrite=True) as staging:
            (staging / "porism.json").write_text(content)
    assert (tmp_path / "out/porism.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leavings_of_killed_runs_are_removed_but_not_those_of_living_ones(tmp_path: Path) -> None:
    left = tmp_path / ".out.porism-abc"
    left.mkdir()
    (left / "half").write_text("x")
    with output.staged(tmp_path / "out", overwrite=True) as first:
        assert not left.exists()
        with output.staged(tmp_path / "out", overwrite=True) as second:
            assert first.exists() and first != second
            (second / "porism.json").write_text("{}")
    assert (tmp_path / "out").is_dir()


def test_of_two_runs_at_once_the_second_to_end_replaces_nothing(tmp_path: Path) -> None:
    late = output.staged(tmp_path / "out", overwrite=False)
    (late.__enter__() / "porism.json").write_text("[]")
    with output.staged(tmp_path / "out", overwrite=False) as early:
        (early / "porism.json").write_text("{}")
    with pytest.raises(PorismError, match="out exists; choose another name"):
        late.__exit__(None, None, None)
    assert (tmp_path / "out" / "porism.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, toy: str, story: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PorismError, match=r"file is not a folder, so that .*out cannot be in it"):
        compress(llama(tmp_path / "llama"), toy, tmp_path / "file/out", calibrate=story)


def test_the_public_names() -> None:
    assert package.__all__ == ["compress", "load"]
    assert len(ALPHABET) == 96
