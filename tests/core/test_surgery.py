"""Finding, measuring and replacing linear layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from porism.errors import ParameterError
from porism.surgery import evaluating, input_statistics, linear_layers, matrix, replace, set_matrix


class Tied(nn.Module):
    """An embedding with a tied head, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(self.first(self.embedding(ids))))


class Conv1D(nn.Module):
    """The shape of transformers' layer: its weight is transposed."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.arange(float(inputs * outputs)).view(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_patterns_match_whole_names_and_their_ends() -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"q": nn.Linear(2, 2), "k": nn.Linear(2, 2)}), "q": nn.Linear(2, 2)})
    assert list(linear_layers(model)) == ["a.q", "a.k", "q"]
    assert list(linear_layers(model, include=["q"])) == ["a.q", "q"]
    assert list(linear_layers(model, include=["a.*"], exclude=["k"])) == ["a.q"]


def test_a_pattern_that_matches_nothing_lists_what_there_is() -> None:
    model = nn.ModuleDict({f"layer{n}": nn.Linear(2, 2) for n in range(20)})
    with pytest.raises(ParameterError, match=r"matches \['layr3'\].*did you mean.*there are: layer0, .* and 8 more"):
        linear_layers(model, include=["layr3"])
    with pytest.raises(ParameterError, match="there are: none"):
        linear_layers(nn.ReLU())
    with pytest.raises(ParameterError, match="lists of patterns"):
        linear_layers(model, include="layer1")  # type: ignore[arg-type]


def test_tied_weights_are_left_out_by_default_and_refused_by_name() -> None:
    model = Tied()
    assert list(linear_layers(model)) == ["first"]
    with pytest.raises(ParameterError, match=r"head\.weight is tied to embedding\.weight"):
        linear_layers(model, include=["head"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (nn.Linear(2, 2).requires_grad_(False), "already quantised"),
    ],
)
def test_weights_without_numbers_are_refused(layer: nn.Linear, message: str) -> None:
    if message == "already quantised":
        layer.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ParameterError, match=message):
        linear_layers(nn.Sequential(layer))


def test_a_transposed_layer_is_read_and_written_as_outputs_by_inputs() -> None:
    layer = Conv1D(3, 2)
    assert list(linear_layers(nn.Sequential(layer))) == ["0"]
    assert matrix(layer).tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    set_matrix(layer, torch.ones(3, 2))
    assert layer.weight.tolist() == torch.ones(2, 3).tolist()


def test_a_shared_layer_is_replaced_wherever_it_occurs() -> None:
    model = Tied()
    replace(model, "first", nn.Identity())
    assert isinstance(model.first, nn.Identity) and model.again is model.first
    for name in ("", "frist"):
        with pytest.raises(ParameterError, match="no module"):
            replace(model, name, nn.Identity())


def mean_square(before: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    total = rows.square().sum(0)
    return total if before is None else before + total


def test_statistics_see_what_flows_in_and_leave_no_trace() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.9), nn.Linear(3, 1)).train()
    model[1].eval()
    layers = linear_layers(model)
    x = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
    found = input_statistics(model, layers, [x, (x,), {"input": x}], mean_square)
    assert torch.allclose(found["0"], 3 * x.reshape(-1, 2).square().sum(0))
    assert found["2"].shape == (3,)
    assert [module.training for module in model] == [True, False, True]
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_bad_calibration_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    layers = linear_layers(model)
    with pytest.raises(ParameterError, match="batches are empty"):
        input_statistics(model, layers, [], mean_square)
    with pytest.raises(ParameterError, match="what flows into 0 is not finite"):
        input_statistics(model, layers, [torch.tensor([[float("nan"), 1.0]])], mean_square)
    with pytest.raises(ParameterError, match="never reached unused"):
        input_statistics(model, {**layers, "unused": nn.Linear(2, 2)}, [torch.ones(1, 2)], mean_square)
    assert not layers["0"]._forward_pre_hooks, "hooks stay behind after an error"


def test_modes_are_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout())
    with pytest.raises(RuntimeError, match="size"), evaluating(model):
        torch.zeros(2).view(3)
    assert model.training and model[0].training
