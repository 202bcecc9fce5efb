"""CAMERO and its consistency against plain formulas, separate members and other libraries' models; and bad input."""

from __future__ import annotations

import copy
import io
import itertools

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.seeds import generator
from porism.testbeds import mlp
from porism_plugins.distill._camero_members import Members, seeded
from porism_plugins.distill._camero_perturbation import Perturbed, adversarial, gaussian, size
from porism_plugins.distill._consistency import consistency, disagreement
from porism_plugins.distill.camero import CAMERO, from_transformers

Tensor = torch.Tensor


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(generator("camero", seed).normal(size=shape))


def plain(p: Tensor, q: Tensor) -> Tensor:
    """Symmetric KL as F.kl_div has it, one value a row."""
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return sum(F.kl_div(a, b, log_target=True, reduction="none").sum(-1) for a, b in ((p, q), (q, p)))


@pytest.mark.parametrize("form", ["ring", "mean", "all"])
@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_consistency_is_the_mean_over_its_pairs_and_so_is_its_gradient(form, members):
    z, order = some(members, 4, 6).requires_grad_(), list(reversed(range(members)))
    pairs = {
        "ring": [(z[order[i]], z[order[(i + 1) % members]]) for i in range(members)],
        "mean": [(one, z.mean(0)) for one in z],
        "all": [(z[i], z[j]) for i, j in itertools.permutations(range(members), 2)] or [(z[0], z[0])],
    }[form]
    expected = torch.stack([plain(p, q).mean() for p, q in pairs]).mean()
    found = consistency(z, form=form, order=order if form == "ring" else None)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, z)[0] for one in (found, expected)))


@pytest.mark.parametrize("divergence", ["symmetric_kl", "js", "tv", "kl", "mse"])
def test_rows_that_are_masked_have_no_part_even_if_they_are_nan(divergence):
    z, mask = some(3, 4, 5, 6), torch.from_numpy(generator("camero", "mask").random((4, 5)) < 0.5)
    rows = torch.stack([member[mask] for member in z])
    spoilt = torch.where(mask[None, :, :, None], z, torch.nan).requires_grad_()
    for form in ("ring", "mean", "all"):
        found = consistency(spoilt, divergence=divergence, form=form, mask=mask)
        torch.testing.assert_close(found, consistency(rows, divergence=divergence, form=form))
    assert torch.autograd.grad(found, spoilt)[0].isfinite().all()


def test_without_a_row_the_consistency_is_a_zero_that_can_be_differentiated():
    z = some(3, 4, 6).requires_grad_()
    value = consistency(z, mask=torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value == 0 and (z.grad == 0).all()


def test_known_values_of_a_disagreement():
    p, q = torch.tensor([0.0, np.log(3)]), torch.zeros(2)
    kl, reverse = 0.25 * np.log(0.5) + 0.75 * np.log(1.5), -0.5 * np.log(0.5 * 1.5)
    for name, value in {
        "kl": kl,
        "reverse_kl": reverse,
        "symmetric_kl": kl + reverse,
        "mse": np.log(3) ** 2 / 2,
    }.items():
        assert float(disagreement(p, q, name)) == pytest.approx(value, rel=1e-5)
    assert disagreement(p.bfloat16(), q.bfloat16(), "mse").dtype == torch.float32


def test_a_ring_in_random_orders_is_all_pairs_on_average():
    z = some(4, 3, 5)
    rings = [consistency(z, divergence="kl", order=order) for order in itertools.permutations(range(4))]
    torch.testing.assert_close(torch.stack(rings).mean(), consistency(z, divergence="kl", form="all"))


@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from(["symmetric_kl", "js", "mse"]))
def test_consistency_is_zero_for_members_that_agree_and_above_for_others(seed, members, divergence):
    one = some(3, 5, seed=seed)
    assert float(consistency([one] * members, divergence=divergence, form="all")) == pytest.approx(0, abs=1e-12)
    others = [one, *some(members, 3, 5, seed=seed + 1)]
    for form in ("ring", "mean", "all"):
        assert float(consistency(others, divergence=divergence, form=form)) > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": []}, "one member"),
        ({"predictions": [torch.zeros(2, 3), torch.zeros(2, 4)]}, "one shape"),
        ({"predictions": torch.zeros(3)}, "members, ..., classes"),
        ({"form": "star"}, "form must be one of ring, mean, all"),
        ({"divergence": "klx"}, "klx"),
        ({"order": [0, 0]}, "permutation of 0..1"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, r"boolean of shape \(3,\)"),
        ({"mask": torch.ones(3)}, "must be boolean"),
        ({"predictions": torch.full((2, 3, 4), torch.nan)}, r"NaN|finite"),
    ],
)
def test_bad_arguments_of_consistency_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        consistency(**({"predictions": torch.zeros(2, 3, 4)} | arguments))


def network(seed: int = 0, *, dropout: float = 0.3) -> nn.Sequential:
    first, act, second, also, head = mlp([5, 8, 8, 3], generator("camero", "network", seed))
    return nn.Sequential(first, act, nn.Dropout(dropout), second, also, nn.Dropout(dropout), head)


def bert(**options: object) -> transformers.BertForSequenceClassification:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        initializer_range=0.3, **({"num_labels": 3} | options),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config)


X, Y = some(6, 5).float(), torch.tensor([0, 1, 2, 0, 1, 2])
TEXT = {
    "input_ids": torch.from_numpy(generator("camero", "text").integers(1, 30, size=(4, 7))),
    "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 7, [1] * 5 + [0] * 2]),
}
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("perturbation", ["dropout", "noise", "adversarial", "none"])
@pytest.mark.parametrize(("form", "divergence"), [("ring", "auto"), ("mean", "js"), ("all", "mse")])
def test_the_loss_is_the_members_mean_and_alpha_times_their_consistency(perturbation, form, divergence):
    ensemble = CAMERO(network(), ["6"], perturbation=perturbation, form=form, divergence=divergence, alpha=0.7)
    out = ensemble(X, labels=Y)
    task = torch.stack([F.cross_entropy(z, Y) for z in out.members]).mean()
    torch.testing.assert_close(out.task, task)
    torch.testing.assert_close(out.loss, out.task + 0.7 * out.consistency)
    torch.testing.assert_close(out.logits, out.members.mean(0))
    if form != "ring":
        kind = "symmetric_kl" if divergence == "auto" else divergence
        torch.testing.assert_close(out.consistency, consistency(out.members, divergence=kind, form=form))
    assert float(out.consistency.detach()) > 0
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ensemble.parameters())


def test_heads_are_drawn_apart_and_own_layers_are_copies():
    model = network()
    given = copy.deepcopy(model)
    ensemble = CAMERO(model, ["6"], ["3"], members=3, seed=1)
    heads, own = ensemble.model[6].members, ensemble.model[3].members
    assert torch.equal(heads[0].weight, given[6].weight) and all(torch.equal(m.weight, given[3].weight) for m in own)
    for a, b in itertools.combinations(heads, 2):
        assert not torch.equal(a.weight, b.weight)
    assert len({id(m.weight) for m in own}) == 3
    again = CAMERO(copy.deepcopy(given), ["6"], ["3"], members=3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(ensemble.parameters(), again.parameters(), strict=True))


def test_identical_members_without_perturbation_agree():
    ensemble = CAMERO(network(dropout=0.0), [], ["6"], perturbation="none")
    out = ensemble(X, labels=Y)
    assert float(out.consistency.detach()) == 0 and torch.equal(out.members[0], out.members[3])


def test_members_of_no_parts_of_their_own_are_two_dropout_passes():
    out = CAMERO(network(), [], members=2)(X, labels=Y)
    assert not torch.equal(*out.members)
    torch.testing.assert_close(out.consistency, plain(*out.members).mean())


@pytest.mark.parametrize("perturbation", ["dropout", "noise", "adversarial", "none"])
def test_torchs_own_random_numbers_stay_as_they_were(perturbation):
    state = torch.get_rng_state()
    ensemble = CAMERO(network(), ["6"], perturbation=perturbation)
    ensemble(X, labels=Y)
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_differ_over_members_and_passes_and_repeat_with_the_seed():
    first, same, other = (CAMERO(network(), [], ["6"], seed=seed) for seed in (3, 3, 4))
    one, two = first(X).members, first(X).members
    assert not torch.equal(one[0], one[1]) and not torch.equal(one, two)
    assert torch.equal(one, same(X).members) and not torch.equal(one, other(X).members)


def test_a_resumed_run_goes_on_bit_for_bit():
    ensemble = CAMERO(network(), ["6"])
    ensemble(X, labels=Y)
    ensemble(X, labels=Y)
    buffer = io.BytesIO()
    torch.save(ensemble.state_dict(), buffer)
    buffer.seek(0)
    other = CAMERO(network(seed=1), ["6"])
    other.load_state_dict(torch.load(buffer, weights_only=True))
    twin = copy.deepcopy(ensemble)
    expected = ensemble(X, labels=Y)
    for resumed in (other, twin):
        assert torch.equal(resumed(X, labels=Y).loss, expected.loss)


def test_the_state_is_saved_as_safetensors():
    from safetensors.torch import load, save

    ensemble, other = from_transformers(bert(), own_layers=1), from_transformers(bert(), own_layers=1, seed=9)
    ensemble(**TEXT)
    other.load_state_dict(load(save(dict(ensemble.state_dict()))))
    assert torch.equal(ensemble(**TEXT).members, CAMERO.forward(_same_seed(other, ensemble), **TEXT).members)


def _same_seed(ensemble: CAMERO, like: CAMERO) -> CAMERO:
    ensemble.seed, ensemble.passes = like.seed, like.passes - 1
    return ensemble


MODELS = {
    "bert": (transformers.BertConfig, transformers.BertForSequenceClassification, {}),
    "roberta": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification, {}),
    "deberta": (transformers.DebertaV2Config, transformers.DebertaV2ForSequenceClassification, {}),
    "llama": (transformers.LlamaConfig, transformers.LlamaForSequenceClassification, {"pad_token_id": 0}),
    "tokens": (transformers.BertConfig, transformers.BertForTokenClassification, {}),
}


@pytest.mark.parametrize("own_layers", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_transformers_ensemble_is_the_mean_of_its_members(name, own_layers):
    """A Llama's classifier reads the batch again after its head: there each member has a pass."""
    config, kind, options = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
        model = kind(config(vocab_size=30, num_labels=3, initializer_range=0.3, **size, **options))
    before = copy.deepcopy(model.state_dict())
    ensemble = from_transformers(model, members=3, own_layers=own_layers).train()
    labels = LABELS if name != "tokens" else LABELS[:, None].repeat(1, 7)
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.5)
    ensemble(**TEXT, labels=labels).loss.backward()
    optimizer.step()
    ensemble.eval()
    with torch.no_grad():
        found = ensemble(**TEXT, labels=labels)
        separate = torch.stack([ensemble.member(j).eval()(**TEXT).logits for j in range(3)])
    torch.testing.assert_close(found.logits, separate.mean(0))
    torch.testing.assert_close(found.loss, F.cross_entropy(separate.mean(0).flatten(0, -2), labels.flatten()))
    assert float(separate.std(0).min()) > 0
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert ensemble._in_one_pass == (name != "llama")


@pytest.mark.parametrize("own_layers", [0, 1])
def test_at_inference_the_shared_layers_run_once(own_layers):
    ensemble, runs = from_transformers(bert(), own_layers=own_layers).eval(), []
    layers = ensemble.model.bert.encoder.layer
    for number, layer in enumerate(layers):
        parts = layer.members if isinstance(layer, Members) else [layer]
        for part in parts:
            part.register_forward_hook(lambda *_, number=number: runs.append(number))
    ensemble(**TEXT)
    assert runs == ([0, 1, 2] if own_layers == 0 else [0, 1, 2, 2, 2, 2])


def test_the_ensemble_of_bert_base_has_the_papers_size():
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig())
    single = sum(p.numel() for p in model.parameters())
    pooler = 768 * 769 + 2 * 769
    assert single == pytest.approx(109.5e6, rel=1e-3) and (single + 7 * pooler) / 1e6 == pytest.approx(113.6, abs=0.1)


def test_noise_is_added_to_the_embeddings_and_is_as_strong_as_asked():
    ensemble = from_transformers(bert(hidden_dropout_prob=0.0), perturbation="noise", strength=0.5, members=1)
    assert ensemble.embeddings == "bert.embeddings.word_embeddings"
    x = some(400, 10, 20).float() * torch.linspace(0.1, 3, 400)[:, None, None]
    with seeded(torch.device("cpu"), 1):
        noise = gaussian(x, 0.5)
    ratio = noise.std((1, 2)) / x.square().mean((1, 2)).sqrt()
    assert float((ratio - 0.5).abs().max()) < 0.1
    seen = []
    embeddings = ensemble.model.get_submodule(ensemble.embeddings)
    embeddings.register_forward_hook(lambda module, args, out: seen.append(out))
    ensemble(**TEXT)
    calm = embeddings(TEXT["input_ids"])
    assert torch.equal(seen[0], calm)  # a hook that was there before sees no noise, and none is left behind
    assert not embeddings._forward_hooks or len(embeddings._forward_hooks) == 1


def test_the_adversarial_direction_is_that_of_the_largest_ascent():
    """The top eigenvector of the Fisher information is where the power iteration goes."""
    model, x = network(dropout=0.0).double(), some(1, 5)
    perturbed = Perturbed(model, "")
    with seeded(torch.device("cpu"), 5):
        delta = adversarial(perturbed, lambda: model(x), strength=0.01, steps=30, divergence="symmetric_kl")
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], x[0])
    p = model(x)[0].softmax(-1).detach()
    fisher = jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    top = torch.linalg.eigh(fisher).eigenvectors[:, -1]
    assert abs(float(F.cosine_similarity(delta[0], top, dim=0))) > 0.99
    torch.testing.assert_close(delta.abs().max(), size(x, 0.01)[0, 0].double(), rtol=1e-4, atol=0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("perturbation", ["dropout", "noise", "adversarial", "none"])
def test_other_dtypes_train(dtype, perturbation):
    model = bert(hidden_dropout_prob=0.1).to(dtype)
    ensemble = from_transformers(model, own_layers=1, perturbation=perturbation, strength=0.3)
    out = ensemble(**TEXT, labels=LABELS)
    out.loss.backward()
    assert out.members.dtype == dtype and out.loss.dtype == torch.promote_types(dtype, torch.float32)
    assert all(p.grad is None or p.grad.isfinite().all() for p in ensemble.parameters())
    if perturbation == "adversarial":
        calm = from_transformers(model, own_layers=1)(**TEXT, labels=LABELS)
        assert not torch.equal(calm.members, out.members)


def test_bfloat16_does_not_hide_the_adversarial_direction():
    model, x = network(dropout=0.0).bfloat16(), X.bfloat16()
    with seeded(torch.device("cpu"), 5):
        delta = adversarial(Perturbed(model, ""), lambda: model(x), strength=0.3, steps=1, divergence="symmetric_kl")
    assert bool((delta.abs().amax(1) > 0).all())


@pytest.mark.parametrize("own_layers", [0, 1])
def test_a_batch_of_one(own_layers):
    one = {name: tensor[:1] for name, tensor in TEXT.items()}
    ensemble = from_transformers(bert(), own_layers=own_layers)
    assert ensemble(**one, labels=LABELS[:1]).loss.isfinite()
    assert ensemble.eval()(**one).logits.shape == (1, 3)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_floating_labels_are_regressed(shape):
    targets = some(*shape).float()
    out = from_transformers(bert(num_labels=1), form="mean")(**TEXT, labels=targets)
    members = out.members[..., 0]
    torch.testing.assert_close(out.task, (members - targets.reshape(4)).square().mean())
    torch.testing.assert_close(out.consistency, members.var(0, correction=0).mean())


def test_ignored_labels_have_no_part():
    labels = torch.tensor([0, -100, 2, -100])
    kept = {name: tensor[[0, 2]] for name, tensor in TEXT.items()}
    for mode in (True, False):
        model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        whole, part = (from_transformers(model, form="all").train(mode) for _ in "ab")
        torch.testing.assert_close(whole(**TEXT, labels=labels).loss, part(**kept, labels=labels[[0, 2]]).loss)


def test_without_labels_there_is_no_loss():
    ensemble = CAMERO(network(), ["6"])
    out = ensemble(X)
    assert set(out) == {"logits", "members", "consistency"} and set(ensemble.eval()(X)) == {"logits"}
    with pytest.raises(AttributeError, match="no loss; it has logits"):
        _ = ensemble(X).loss


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((6,), -100), "all ignored"),
        (torch.full((6,), 3), r"0\.\.2"),
        (torch.full((6,), -1), r"0\.\.2"),
        (torch.zeros(5, dtype=torch.long), r"shape \(6,\)"),
        (torch.zeros(6), r"shape \(6, 3\)"),
    ],
)
def test_bad_labels_are_named(labels, message):
    for mode in (True, False):
        with pytest.raises(ParameterError, match=message):
            CAMERO(network(), ["6"]).train(mode)(X, labels=labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": "6"}, "lists of names"),
        ({"heads": ["7"]}, "no submodule '7'"),
        ({"heads": [""]}, "no submodule"),
        ({"heads": ["6"], "own": ["6"]}, "must not overlap"),
        ({"members": 0}, "members"),
        ({"alpha": -1.0}, "alpha"),
        ({"perturbation": "gaussian"}, "perturbation"),
        ({"form": "star"}, "form"),
        ({"embeddings": "words"}, "embeddings must name a submodule"),
        ({"strength": 0.0}, "strength"),
        ({"momentum": 1}, "momentum"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        CAMERO(network(), **({"heads": ["6"]} | arguments))


def test_other_bad_input_is_named():
    with pytest.raises(ParameterError, match="must not overlap"):
        CAMERO(bert(), ["bert.pooler.dense"], ["bert.pooler"])
    with pytest.raises(ParameterError, match="must not overlap"):
        CAMERO(bert(), ["bert.pooler"], ["bert.pooler.dense"])
    with pytest.raises(ParameterError, match="head on it"):
        from_transformers(bert().bert)
    with pytest.raises(ParameterError, match=r"own_layers must be in 0\.\.3"):
        from_transformers(bert(), own_layers=4)
    with pytest.raises(ParameterError, match="name in embeddings="):
        from_transformers(bert(), embeddings="", perturbation="noise")(TEXT["input_ids"])
    with pytest.raises(ParameterError, match="whose first axis is the batch"):
        CAMERO(network(), ["6"])(None)
    with pytest.raises(ParameterError, match=r"0\.\.3"):
        CAMERO(network(), ["6"]).member(4)
    with pytest.raises(ParameterError, match="run by the ensemble"):
        CAMERO(network(), ["6"]).model(X)


def test_a_trainer_trains_and_evaluates_it(tmp_path):
    rows = [{"input_ids": TEXT["input_ids"][i % 4], "labels": LABELS[i % 4]} for i in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=3, per_device_train_batch_size=4, learning_rate=1e-3, report_to=[],
        remove_unused_columns=False, use_cpu=True, save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(from_transformers(bert()), arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.predict(rows).predictions.shape == (8, 3)
    trainer.save_model(tmp_path / "saved")


class Flattening(nn.Module):
    """As many positions as members, so that the head's rows are as many as in a pass of all members."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.body, self.head, self.positions = nn.Linear(5, 8), nn.Linear(8, 3), positions

    def forward(self, x: Tensor) -> Tensor:
        rows = self.head(self.body(x.flatten(0, 1)))
        return rows.view(len(x), self.positions, 3) if self.positions else rows


@pytest.mark.parametrize("positions", [4, -1, 0])
def test_a_head_on_flattened_rows_falls_back_to_a_pass_for_each_member(positions):
    with seeded(torch.device("cpu"), 0):
        ensemble = CAMERO(Flattening(positions), ["head"], members=4).eval()
    x = some(3, 4, 5).float()
    separate = torch.stack([ensemble.member(j)(x) for j in range(4)])
    torch.testing.assert_close(ensemble(x).logits, separate.mean(0))
