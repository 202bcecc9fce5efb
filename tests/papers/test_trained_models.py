"""Testbeds: small transformers trained on text and digits, their cache, and a user's own checkpoints."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from porism.errors import ParameterError, PorismError
from porism.testbeds import (
    accuracy,
    bits_per_character,
    corpus,
    digest,
    digits,
    images,
    load_checkpoint,
    missing_vowels,
    perplexity,
    tiny_bert,
    tiny_llama,
    tiny_vit,
    train,
    trained_once,
    training,
)

TOKENS = np.random.default_rng(0).integers(96, size=2000)
SMALL = {"hidden": 16, "layers": 1, "steps": 3}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PORISM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_llama(**values):
    return tiny_llama(TOKENS, **{**SMALL, **values})


def small_bert():
    x = TOKENS[:1600].reshape(100, 16)
    return tiny_bert(x, np.arange(100) % 3, **SMALL), torch.from_numpy(x[:5])


def small_vit():
    x = np.random.default_rng(0).random((20, 64))
    return tiny_vit(x, np.arange(20) % 4, **SMALL), images(x[:5])


def weights_of(model) -> str:
    return digest(*(weight.numpy() for weight in model.state_dict().values()))


def run(code: str, cache: Path, **settings: str) -> subprocess.CompletedProcess:
    import os

    environment = {**os.environ, "PORISM_CACHE": str(cache), **settings}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def bigram_bits(train: np.ndarray, test: np.ndarray) -> float:
    counts = np.full((96, 96), 0.1)
    np.add.at(counts, (train[:-1], train[1:]), 1)
    return float(-np.log2((counts / counts.sum(1, keepdims=True))[test[:-1], test[1:]]).mean())


@pytest.mark.slow
def test_llama_reads_unseen_text_a_bit_better_than_bigrams():
    """Its real training: half a minute, once for all tests that use it."""
    text = corpus(np.random.default_rng(0))
    model = tiny_llama(text.train)
    bits = bits_per_character(model, text.test)
    assert bits < bigram_bits(text.train, text.test) - 1.0
    assert bits_per_character(model, text.train) < bits
    assert perplexity(model, text.test) == pytest.approx(2**bits)
    written = model.generate(torch.from_numpy(text.test[None, :20]), max_new_tokens=8, do_sample=False)
    assert written.shape == (1, 28)


@pytest.mark.slow
def test_vit_reads_unseen_digits():
    data = digits(np.random.default_rng(0), train=1200, validation=100)
    model = tiny_vit(data.x_train, data.y_train)
    assert accuracy(model, images(data.x_test), data.y_test) > 0.95


@pytest.mark.slow
def test_bert_finds_missing_vowels_in_unseen_text():
    """Counts of characters find 0.35 of them, a logistic regression on the eight neighbours 0.69."""
    text = corpus(np.random.default_rng(0))
    model = tiny_bert(*missing_vowels(text.train))
    assert accuracy(model, *missing_vowels(text.test)) > 0.78


def test_heads_of_keys_are_shared_and_embeddings_tied_on_demand():
    model, tied = small_llama(), small_llama(tied=True)
    assert model.config.num_key_value_heads * 2 == model.config.num_attention_heads
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


@pytest.mark.slow
def test_same_seed_same_bits_in_another_process(folder, tmp_path):
    code = (
        "import numpy as np, torch; torch.manual_seed(5)\n"
        "from porism.testbeds import digest, tiny_llama\n"
        "tokens = np.random.default_rng(0).integers(96, size=2000)\n"
        f"model = tiny_llama(tokens, **{SMALL})\n"
        "print(digest(*(weight.numpy() for weight in model.state_dict().values())))"
    )
    child = run(code, tmp_path / "another", OMP_NUM_THREADS="2")
    assert child.stdout.strip() == weights_of(small_llama()), child.stderr
    assert weights_of(small_llama(seed=1)) != weights_of(small_llama())


def test_nothing_of_the_callers_torch_changes(folder):
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            first = small_llama()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), random)
    assert not first.training
    torch.randn(3)
    with torch.no_grad():
        (path,) = folder.iterdir()
        path.unlink()
        assert weights_of(small_llama()) == weights_of(first)
    first(torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()  # no inference tensor


@pytest.mark.parametrize("build", [small_llama, lambda: small_bert()[0], lambda: small_vit()[0]])
def test_what_is_cached_is_not_trained_again(build, folder, monkeypatch):
    first = build()
    monkeypatch.setattr(training, "train", None)
    again = build()
    assert weights_of(again) == weights_of(first)
    with torch.no_grad():
        next(again.parameters()).zero_()  # a caller's change does not reach the next one
    assert weights_of(build()) == weights_of(first)


def test_every_argument_is_another_model(folder):
    small_llama()
    for change in ({"seed": 1}, {"steps": 4}, {"length": 64}, {"tied": True}, {"hidden": 24}, {"layers": 2}):
        small_llama(**change)
    tiny_llama(TOKENS[::-1], **SMALL)
    assert len(list(folder.iterdir())) == 8


def test_a_damaged_file_is_trained_again(folder):
    first = small_llama()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:5000] + b"\x00\x01\x02" + whole[5003:]):
        path.write_bytes(damaged)
        assert weights_of(small_llama()) == weights_of(first)
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(whole).digest()


KILLED = {
    "while training": "itertools.islice = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    "before the file has its name": "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.slow
@pytest.mark.parametrize("when", KILLED)
def test_a_killed_training_leaves_nothing_under_the_final_name(when, folder):
    code = (
        "import itertools, os, signal, numpy as np\n"
        "from porism.testbeds import tiny_llama\n"
        f"{KILLED[when]}\n"
        "tokens = np.random.default_rng(0).integers(96, size=2000)\n"
        f"tiny_llama(tokens, **{SMALL})"
    )
    assert run(code, folder).returncode == -9
    assert not list(folder.glob("tiny-llama-*"))
    small_llama()
    assert len(list(folder.glob("tiny-llama-*"))) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tiny_llama(TOKENS + 1, **SMALL), r"\[0, 95\]"),
        (lambda: tiny_llama(TOKENS / 2, **SMALL), "integers in 1 dim"),
        (lambda: tiny_llama(TOKENS[:100], **SMALL), "length 128"),
        (lambda: small_llama(hidden=20), "multiple of 8"),
        (lambda: small_llama(steps=0), "steps"),
        (lambda: small_llama(hiden=20), "did you mean 'hidden'"),
        (lambda: tiny_bert(TOKENS[:20].reshape(2, 10), np.array([0]), **SMALL), "one for each of 2 rows"),
        (lambda: tiny_bert(TOKENS[:20].reshape(2, 10), np.array([0, 0]), **SMALL), "at least two"),
        (lambda: tiny_bert(TOKENS, np.array([0, 1]), **SMALL), "2 dimensions"),
        (lambda: tiny_vit(np.zeros((2, 63)), np.array([0, 1])), r"\(n, 64\)"),
        (lambda: tiny_vit(np.full((2, 64), 16.0), np.array([0, 1])), r"in \[0, 1\]"),
        (lambda: tiny_vit(np.full((2, 64), np.nan), np.array([0, 1])), r"in \[0, 1\]"),
    ],
)
def test_bad_data_and_sizes_are_refused(call, message, folder):
    with pytest.raises(ParameterError, match=message):
        call()
    assert not folder.exists()


class Line(torch.nn.Module):
    """The loss (x - weight - bias)^2, with a matrix and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.ones(1, 1))
        self.vector = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=((x - self.matrix - self.vector) ** 2).mean())


def test_training_follows_the_warm_up_and_the_cosine():
    model, seen = Line(), []

    def batches():
        while True:
            seen.append(model.matrix.item())
            yield torch.full((1,), 1e6)  # one direction: each step of Adam is its rate

    losses = train(model, batches(), steps=20, learning_rate=0.1, weight_decay=0.0, warmup=0.2)
    moved = np.diff([*seen, model.matrix.item()])
    rates = 0.1 * np.minimum((np.arange(20) + 1) / 4, (1 + np.cos(np.pi * np.arange(20) / 20)) / 2)
    np.testing.assert_allclose(moved[:20], rates, rtol=1e-3)
    assert losses.shape == (20,)
    assert losses[0] == pytest.approx((1e6 - 2) ** 2, rel=1e-6)


def test_only_matrices_decay():
    model = Line()
    train(model, [torch.full((1,), 2.0)] * 10, steps=10, learning_rate=0.1, weight_decay=0.5)  # at its minimum
    assert model.matrix.item() < 0.99
    assert model.vector.item() > 1.0


def test_what_needs_no_gradient_stays():
    model = Line()
    model.matrix.requires_grad_(False)
    train(model, [torch.zeros(1)] * 3, steps=3, learning_rate=0.1)
    assert model.matrix.item() == 1.0
    assert model.vector.item() < 1.0
    model.vector.requires_grad_(False)
    with pytest.raises(ParameterError, match="no parameter that requires a gradient"):
        train(model, [torch.zeros(1)], steps=1)


def test_batches_that_end_and_losses_that_are_no_numbers_are_told():
    with pytest.raises(ParameterError, match="batches end after 2 of 3 steps"):
        train(Line(), [torch.zeros(1)] * 2, steps=3)
    with pytest.raises(ParameterError, match="not finite from step 1 on"):
        train(Line(), [torch.zeros(1), torch.full((1,), torch.nan), torch.zeros(1)], steps=3)


def test_training_that_fails_stores_nothing(folder):
    with pytest.raises(ParameterError, match="batches end"):
        trained_once("line", Line, lambda rng: [torch.zeros(1)], seed=0, steps=2, learning_rate=0.1, key={})
    assert not folder.exists()


def test_perplexity_of_a_model_that_knows_nothing_is_its_vocabulary():
    model = small_llama()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert perplexity(model, TOKENS, length=50) == pytest.approx(96, rel=1e-6)


def test_bits_are_those_of_each_prediction():
    model, tokens = small_llama().train(), TOKENS[:70]
    with torch.no_grad():
        rows = torch.from_numpy(tokens[:60].reshape(3, 20))
        chances = torch.stack([model.eval()(row[None]).logits[0].softmax(-1) for row in rows]).numpy()
    by_hand = -np.mean([np.log2(chances[i, j, rows[i, j + 1]]) for i in range(3) for j in range(19)])
    model.train()
    assert bits_per_character(model, tokens, length=20, batch=2) == pytest.approx(by_hand, rel=1e-5)
    assert model.training
    with pytest.raises(ParameterError, match="length must be at least 2"):
        bits_per_character(model, tokens, length=1)
    with pytest.raises(ParameterError, match="n >= length"):
        perplexity(model, tokens, length=71)


def test_accuracy_counts_what_is_right():
    model, x = small_vit()
    truth = model(x).logits.argmax(-1)
    assert accuracy(model, x, truth, batch=2) == 1.0
    truth[0] = (truth[0] + 1) % 4
    assert accuracy(model, x, truth.numpy()) == pytest.approx(0.8)
    with pytest.raises(ParameterError, match="inputs not empty"):
        accuracy(model, x[:0], truth[:0])


def checkpoint(tmp_path: Path, model) -> Path:
    model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.mark.parametrize("shape", ["whole", "shards", "tied", "bfloat16"])
def test_a_users_llama_folder_gives_the_same_model(shape, tmp_path):
    model = small_llama(tied=shape == "tied")
    model = model.to(torch.bfloat16) if shape == "bfloat16" else model
    model.save_pretrained(tmp_path / "mine", max_shard_size="5KB" if shape == "shards" else "1GB")
    random = torch.get_rng_state()
    loaded = load_checkpoint(str(tmp_path / "mine"))
    assert torch.equal(torch.get_rng_state(), random)
    assert type(loaded) is type(model)
    assert loaded.dtype == model.dtype
    theirs, ours = model.state_dict(), loaded.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    if shape != "bfloat16":  # `.to` rounds the rotary frequencies as well, loading does not
        assert bits_per_character(loaded, TOKENS) == bits_per_character(model, TOKENS)
    if shape == "shards":
        assert len(list((tmp_path / "mine").glob("*.safetensors"))) > 1
    if shape == "tied":
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.parametrize("build", [small_bert, small_vit])
def test_a_users_classifier_folder_gives_the_same_model(build, tmp_path):
    model, x = build()
    loaded = load_checkpoint(checkpoint(tmp_path, model))
    assert type(loaded) is type(model)
    assert torch.equal(loaded(x).logits, model(x).logits)


def test_pickled_weights_are_refused_and_never_opened(tmp_path):
    folder = checkpoint(tmp_path, small_llama())
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ParameterError, match=r"pickled weights \(pytorch_model.bin\).*save_pretrained"):
        load_checkpoint(folder)


def test_folders_that_hold_no_model_are_told_apart(tmp_path):
    with pytest.raises(ParameterError, match=r"no config\.json"):
        load_checkpoint(tmp_path / "nowhere")
    folder = checkpoint(tmp_path, small_llama())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-200])
    with pytest.raises(ParameterError, match="cannot load"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ParameterError, match="has no weights"):
        load_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text())
    for content, message in (
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({**config, "architectures": ["LlamaForNothing"]}), "LlamaForNothing; known endings"),
        (json.dumps({**config, "architectures": None}), "no known model"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(PorismError, match=message):
            load_checkpoint(folder)


def test_a_checkpoint_that_lacks_weights_is_not_filled_with_random_ones(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = checkpoint(tmp_path, small_llama())
    whole = load_file(folder / "model.safetensors")
    lacking = copy.copy(whole)
    del lacking["model.layers.0.mlp.up_proj.weight"]
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParameterError, match=r"lacks weights of LlamaForCausalLM: model.layers.0.mlp.up_proj.weight"):
        load_checkpoint(folder)
