"""MoEBERT against importance by hand, exact corners, BERT's own layers, states that come back, and bad input."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from porism.divergences import kl_divergence_logits
from porism.errors import ParameterError
from porism.testbeds import mlp
from porism_plugins.moe._engine import layers, loads
from porism_plugins.moe._moebert_distil import distance, watched
from porism_plugins.moe._moebert_sites import sites
from porism_plugins.moe._moebert_split import dealt, importance, task_loss
from porism_plugins.moe.moebert import moebert

WIDTH, NEURONS = 6, 24


def network(seed: int = 0) -> nn.Module:
    return mlp((WIDTH, NEURONS, WIDTH, 3), np.random.default_rng(seed))


def pairs(count: int = 3, rows: int = 5) -> list[Any]:
    rng = np.random.default_rng(1)
    return [
        (torch.from_numpy(rng.normal(size=(rows, WIDTH))).float(), torch.from_numpy(rng.integers(3, size=rows)))
        for _ in range(count)
    ]


def bert(**options: Any) -> Any:
    config = BertConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.3, **options,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


def texts(count: int = 2) -> list[dict[str, torch.Tensor]]:
    made = torch.Generator().manual_seed(3)
    return [
        {
            "input_ids": torch.randint(30, (4, 7), generator=made),
            "attention_mask": torch.tensor([[1] * 7, [1] * 7, [1] * 5 + [0] * 2, [1] * 7]),
            "labels": torch.randint(3, (4,), generator=made),
        }
        for _ in range(count)
    ]


def encoder(batch_first: bool = True) -> nn.Module:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerEncoderLayer(WIDTH, 2, NEURONS, dropout=0.0, batch_first=batch_first)
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.block(x if batch_first else x.transpose(0, 1)).mean(1 if batch_first else 0))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier().eval()


def sequences() -> list[Any]:
    made = torch.Generator().manual_seed(2)
    return [(torch.randn(4, 5, WIDTH, generator=made), torch.randint(3, (4,), generator=made)) for _ in range(2)]


def by_hand(model: nn.Module, batches: list[Any], up: nn.Linear, down: nn.Linear) -> torch.Tensor:
    """Importance from the gradients of single samples."""
    total = torch.zeros(up.out_features)
    for x, y in batches:
        for row in range(len(x)):
            model.zero_grad()
            F.cross_entropy(model(x[row : row + 1]), y[row : row + 1]).backward()
            total += ((up.weight * up.weight.grad).sum(1) + (down.weight * down.weight.grad).sum(0)).abs().detach()
    return total


def test_importance_is_that_of_single_samples() -> None:
    model, batches = network(), pairs()
    found = importance(model, sites(model), batches)
    torch.testing.assert_close(found["0"], by_hand(model, batches, model[0], model[2]))


@pytest.mark.parametrize("batch_first", [True, False])
def test_importance_sums_over_the_tokens_of_a_sample(batch_first: bool) -> None:
    model: Any = encoder(batch_first)
    found = importance(model, sites(model), sequences())
    expected = by_hand(model, sequences(), model.block.linear1, model.block.linear2)
    torch.testing.assert_close(found["block"], expected, rtol=1e-4, atol=1e-6)


def test_a_neuron_without_weights_is_worth_nothing_and_dealt_last() -> None:
    model: Any = network()
    with torch.no_grad():
        model[0].weight[5], model[2].weight[:, 5] = 0, 0
    score = importance(model, sites(model), pairs())["0"]
    assert score[5] == 0 and (score >= 0).all()
    assert 5 not in dealt(score, experts=4, inner=5, shared=1)


def test_the_sizes_of_the_paper_leave_half_the_neurons() -> None:
    index = dealt(torch.arange(3072.0), experts=4, inner=768, shared=512)
    assert index.shape == (4, 768)
    assert set(index.flatten().tolist()) == set(range(1536, 3072))
    assert index[0, 512] == 3072 - 513 and index[1, 512] == 3072 - 514  # dealt in turn


def test_one_expert_of_everything_is_bert() -> None:
    model = bert()
    same = moebert(model, calibration=texts(), experts=1, expert_width=1.0, steps=0)
    torch.testing.assert_close(same(**texts()[0]).logits, model(**texts()[0]).logits)
    states = []
    for each in (same, model):
        with watched(each, sites(model)) as found, torch.no_grad():
            each(**texts()[0])
        states.append(found)
    assert distance(*states).item() == pytest.approx(0, abs=1e-9)


def test_each_token_of_bert_goes_where_its_id_says() -> None:
    """By hand: each token's state through its expert's neurons, the residual and LayerNorm."""
    model = bert()
    small: Any = moebert(model, calibration=texts(), steps=0)
    batch = texts()[0]
    block, dense = small.bert.encoder.layer[0], model.bert.encoder.layer[0]
    kept: list[torch.Tensor] = []
    handle = block.attention.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    with watched(small, sites(model)) as states, torch.no_grad():
        small(**batch)
    handle.remove()
    layer = block.output.layer
    neurons = dealt(importance(model, sites(model), texts())["bert.encoder.layer.0"], experts=4, inner=8, shared=5)
    for row, column in ((0, 0), (1, 3), (3, 6)):
        x = kept[0][row, column]
        mine = neurons[layer.router.table[batch["input_ids"][row, column]]]
        hidden = F.gelu(dense.intermediate.dense(x)[mine])
        total = x + dense.output.dense.weight[:, mine] @ hidden + dense.output.dense.bias
        torch.testing.assert_close(states["bert.encoder.layer.0"][row, column], dense.output.LayerNorm(total))
    assert not torch.equal(*(each.router.table for _, each in layers(small)))  # a table for each layer


def test_every_expert_has_a_norm_of_its_own() -> None:
    model = bert()
    small: Any = moebert(model, calibration=texts(), steps=0)
    output = small.bert.encoder.layer[0].output
    table = output.layer.router.table
    expert = int(table[texts()[0]["input_ids"][0, 0]])
    before = small(**texts()[0]).logits
    with torch.no_grad():
        output.norm_bias[(expert + 1) % 4] += 1
    changed = (small(**texts()[0]).logits != before).any(1)
    without = (table[texts()[0]["input_ids"]] == (expert + 1) % 4).any(1)
    assert torch.equal(changed, without)


@pytest.mark.parametrize("routing", ["hash", "balanced", "gate"])
@pytest.mark.parametrize("make", [lambda: (bert(), texts()), lambda: (network(), pairs()),
                                  lambda: (encoder(), sequences()), lambda: (encoder(False), sequences())],
                         ids=["bert", "mlp", "encoder", "encoder, batch second"])  # fmt: skip
def test_every_model_trains_with_every_routing_and_comes_back_from_its_state(make: Any, routing: Any) -> None:
    model, batches = make()
    before = copy.deepcopy(model.state_dict())
    options = {"routing": routing, "balance": 0.1, "learning_rate": 1e-3}
    small = moebert(model, calibration=batches, steps=3, **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(len(load.tokens) == 4 for load in loads(small).values())
    fresh = moebert(make()[0], calibration=batches, steps=0, seed=5, **options)
    fresh.load_state_dict(load(save(small.state_dict())))

    def output(model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            found = model(**batches[0]) if isinstance(batches[0], dict) else model(batches[0][0])
        return getattr(found, "logits", found)

    assert torch.equal(output(small.eval()), output(fresh.eval()))


def test_training_lowers_the_distance_to_the_teacher() -> None:
    model, batches = bert(), texts()
    found = sites(model)

    def apart(small: nn.Module) -> float:
        with watched(small, found) as ours, watched(model, found) as theirs, torch.no_grad():
            small(**batches[0]), model(**batches[0])
        return distance(ours, theirs).item()

    start, end = (moebert(model, calibration=batches, steps=steps, learning_rate=3e-3) for steps in (0, 40))
    assert apart(end) < 0.5 * apart(start)


def test_the_distance_is_hidden_states_and_half_the_symmetric_kl() -> None:
    made = torch.Generator().manual_seed(0)
    ours, theirs = (
        {"a": torch.randn(2, 3, generator=made), "embedding": torch.randn(2, 3, generator=made),
         "logits": torch.randn(2, 4, generator=made)} for _ in range(2)
    )  # fmt: skip
    p, q = ours["logits"], theirs["logits"]
    both = (kl_divergence_logits(p, q) + kl_divergence_logits(q, p)).mean() / 2
    hidden = sum((ours[name] - theirs[name]).square().mean() for name in ("a", "embedding"))
    torch.testing.assert_close(distance(ours, theirs), both + hidden)
    torch.testing.assert_close(distance(ours, theirs, layerwise=False), both)
    single = [{"logits": tensors["logits"][:, :1]} for tensors in (ours, theirs)]
    torch.testing.assert_close(distance(*single), (p - q)[:, :1].square().mean())


def test_names_in_the_state_stay_and_copies_keep_their_own_ids() -> None:
    model = bert()
    small: Any = moebert(model, calibration=texts(), steps=0)
    assert "bert.embeddings.word_embeddings.weight" in small.state_dict()
    assert small.get_input_embeddings().weight.shape == (30, 16)
    copied = copy.deepcopy(small)
    assert torch.equal(copied(**texts()[0]).logits, small(**texts()[0]).logits)
    other = texts()[1]
    assert not torch.equal(copied(**other).logits, small(**texts()[0]).logits)


def test_gated_networks_are_split_too() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = LlamaMLP(LlamaConfig(hidden_size=WIDTH, intermediate_size=NEURONS, num_attention_heads=1))
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x + self.mlp(x))

    model = Block()
    whole: Any = moebert(model, calibration=pairs(), experts=1, expert_width=1.0, steps=0)
    assert whole.mlp.experts.gated
    torch.testing.assert_close(whole(pairs()[0][0]), model(pairs()[0][0]))


def test_a_batch_of_one_and_bfloat16_and_in_place() -> None:
    model = network()
    assert moebert(model, calibration=pairs(rows=1), steps=2) is not model
    half = network().bfloat16()
    batches = [(x.bfloat16(), y) for x, y in pairs()]
    small = moebert(half, calibration=batches, steps=2, inplace=True)
    assert small is half and small(batches[0][0]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"experts": 0}, "experts"),
        ({"experts": 30, "expert_width": 0.9, "shared": 0.0}, "share more"),
        ({"expert_width": 0.0}, "expert_width"),
        ({"shared": 1.5}, "shared"),
        ({"routing": "learnt"}, "routing"),
        ({"steps": -1}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"distillation": -1.0}, "distillation"),
        ({"balance": -1.0}, "balance"),
        ({"calibration": []}, "calibration"),
        ({"calibration": [torch.zeros(2, WIDTH)]}, "calibration"),
        ({"calibration": [(torch.full((2, WIDTH), float("nan")), torch.tensor([0, 1]))]}, "calibration"),
        ({"include": ["no_such_layer"]}, "no linear layer matches"),
        ({"exclude": ["2"]}, "no feed-forward network"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        moebert(network(), **{"calibration": pairs(), "steps": 1, **options})


def test_labels_that_are_all_ignored_are_an_error() -> None:
    x, y = pairs()[0]
    with pytest.raises(ParameterError, match="loss is nan"):
        moebert(network(), calibration=[(x, torch.full_like(y, -100))], steps=1)


def test_bert_called_with_embeddings_says_that_ids_are_needed() -> None:
    small = moebert(bert(), calibration=texts(), steps=0)
    with pytest.raises(ParameterError, match="token_ids"):
        copy.deepcopy(small)(inputs_embeds=torch.zeros(1, 3, 16))


def test_the_loss_of_a_batch_is_asked_for_where_it_is_unknown() -> None:
    with pytest.raises(ParameterError, match="loss="):
        task_loss(network(), {"input_ids": torch.zeros(1, 2)})


def test_an_encoder_with_padding_hands_its_experts_no_nested_tensors() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, 2, NEURONS, dropout=0.0, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padding = torch.zeros(x.shape[:2], dtype=torch.bool)
            padding[0, 3:] = True
            return self.layers(x, src_key_padding_mask=padding)[:, 0]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Masked().eval()
    split = moebert(model, calibration=sequences(), exclude=["*0*"], experts=1, expert_width=1.0, shared=0.0, steps=0)
    x = sequences()[0][0]
    with torch.no_grad():
        torch.testing.assert_close(split(x), model(x), rtol=1e-4, atol=1e-5)
