"""NoWag and vector quantisation: naive references, invariants, state, memory, and bad input."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from porism.errors import ParameterError
from porism.kinds import compressor
from porism.packing import unpack
from porism.registry import load
from porism.seeds import generator
from porism.surgery import matrix
from porism_plugins.quant import _codebooks as books
from porism_plugins.quant import _engine as engine
from porism_plugins.quant import _nowag_method as method
from porism_plugins.quant import _nowag_normalise as nw
from porism_plugins.quant import nowag as paper
from porism_plugins.quant._codebooks import CodebookLinear, Points, weighted_kmeans
from porism_plugins.quant.loftq import compress_layer as loftq_layer
from porism_plugins.quant.loftq import loftq
from porism_plugins.quant.nowag import compress_layer, nowag

CHECKS = [check for name, check in vars(compressor).items() if name.startswith("check_")]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp() -> nn.Sequential:
    """Two layers whose inputs divide by 2 but not by 3."""
    model = nn.Sequential(nn.Linear(32, 50), nn.ReLU(), nn.Linear(50, 24))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(gaussian(*parameter.shape, seed=number) / 6)
    return model


BATCHES = [gaussian(20, 32, seed=5), gaussian(30, 32, seed=6)]


def tiny(kind: str, **options):
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=32, **options)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


TOKENS = torch.arange(12).view(2, 6)


def test_columns_are_divided_by_their_norms_before_rows():
    weight = gaussian(6, 5).double().numpy()
    columns = np.linalg.norm(weight, axis=0) + 1e-5
    rows = np.linalg.norm(weight / columns, axis=1) + 1e-5
    one = nw.normalise(torch.from_numpy(weight))
    np.testing.assert_allclose(one.columns, columns)
    np.testing.assert_allclose(one.rows, rows)
    np.testing.assert_allclose(one.matrix, weight / columns / rows[:, None])
    np.testing.assert_allclose(nw.denormalise(one), weight)


def test_zero_columns_rows_and_matrices_normalise_to_zero():
    weight = gaussian(4, 4)
    weight[:, 1] = weight[2] = 0
    one = nw.normalise(weight)
    assert one.matrix.isfinite().all() and not one.matrix[:, 1].any() and not one.matrix[2].any()
    assert torch.equal(nw.normalise(torch.zeros(3, 3)).matrix, torch.zeros(3, 3))


@given(
    st.integers(1, 8), st.integers(1, 4), st.integers(1, 6), st.floats(0.01, 1), st.integers(0, 10**6),
    st.sampled_from(["unstructured", "row", "2:4", "1:4", "3:4"]),
)  # fmt: skip
def test_masks_hold_exactly_the_largest_and_the_first_of_equals(rows, groups, levels, remaining, seed, pattern):
    worth = np.random.default_rng(seed).integers(levels, size=(rows, 4 * groups)).astype(np.float32)
    mask = nw.mask(torch.from_numpy(worth), remaining, pattern).numpy()
    sizes = {"unstructured": worth.size, "row": worth.shape[1]}
    size = sizes.get(pattern, 4)
    kept = math.ceil(round(remaining * size, 9)) if pattern in sizes else int(pattern[0])
    for scores, got in zip(worth.reshape(-1, size), mask.reshape(-1, size), strict=True):
        expected = np.zeros(size, bool)
        expected[np.argsort(-scores, kind="stable")[:kept]] = True
        np.testing.assert_array_equal(got, expected)


def test_pruning_ranks_normalised_weights_by_the_size_of_their_inputs():
    weight, h = gaussian(6, 8), torch.rand(8, generator=seeded())
    layer = compress_layer("0", weight, h, mode="prune", remaining=0.3)
    worth = (nw.normalise(weight).matrix ** 2 * h).flatten()
    kept = worth.argsort(descending=True)[: math.ceil(0.3 * 48)]
    expected = torch.zeros(48)
    expected[kept] = weight.flatten()[kept]
    assert torch.equal(layer.weight.flatten(), expected) and type(layer) is nn.Linear and layer.bias is None


def test_with_equal_inputs_and_the_norms_put_back_it_is_magnitude_pruning():
    weight = gaussian(16, 24)
    layer = compress_layer("0", weight, torch.full((24,), 3.0), mode="prune", objective="output", remaining=0.25)
    assert torch.equal(layer.weight != 0, weight.abs() >= weight.abs().flatten().topk(96).values[-1])


def naive_kmeans(vectors, weights, centres, rounds):
    """Loops in float64: no reseeding, as none is needed here."""
    for _ in range(rounds):
        codes = np.array([np.argmin([(w * (v - c) ** 2).sum() for c in centres]) for v, w in zip(vectors, weights)])  # noqa: B905
        centres = np.array(
            [(weights * vectors)[codes == c].sum(0) / weights[codes == c].sum(0) for c in range(len(centres))]
        )
    return codes, centres


def test_kmeans_equals_the_paper_step_by_step():
    vectors, weights, masses = (
        gaussian(90, 3),
        torch.rand(10, 3, generator=seeded()),
        torch.rand(90, generator=seeded(1)),
    )
    points = Points(vectors, weights, masses)
    start = books._start(points, 5, seeded(3), "random")
    whole = (weights.repeat(9, 1) * masses[:, None]).double().numpy()
    codes, centres = naive_kmeans(vectors.double().numpy(), whole, start.double().numpy(), 4)
    found = books._lloyd(points, start.clone(), 4, False)
    np.testing.assert_allclose(found.codebook, centres, atol=1e-5)
    loss = (whole * (vectors.double().numpy() - found.codebook.double().numpy()[found.codes]) ** 2).sum()
    assert found.losses[-1] == pytest.approx(loss, rel=1e-5) and len(found.losses) == 5
    assert (found.codes.numpy() == codes).mean() > 0.8  # the last round's assignment is one step ahead


def test_unweighted_kmeans_is_as_good_as_scikit_learn_from_the_same_centres():
    from sklearn.cluster import KMeans

    vectors = gaussian(600, 4)
    points = Points(vectors, torch.ones(1, 4))
    start = books._start(points, 16, seeded(), "k-means++")
    ours = books._lloyd(points, start.clone(), 200, True)
    theirs = KMeans(16, init=start.numpy(), n_init=1, max_iter=200, tol=0, algorithm="lloyd").fit(vectors.numpy())
    assert ours.losses[-1] == pytest.approx(theirs.inertia_, rel=1e-4)


def test_chunks_do_not_matter(monkeypatch):
    points = Points(gaussian(300, 4), torch.rand(30, 4, generator=seeded()))
    whole = weighted_kmeans(points, 16, seeded())
    monkeypatch.setattr(books, "_DISTANCES", {"cpu": 7 * 16})
    monkeypatch.setattr(books, "_ADDED", 11)
    parts = weighted_kmeans(points, 16, seeded())
    torch.testing.assert_close(parts.codebook, whole.codebook)
    assert torch.equal(parts.codes, whole.codes)


def test_empty_centres_move_to_the_worst_vectors_and_none_is_wasted():
    vectors = torch.cat([gaussian(200, 2), 50 + gaussian(3, 2)])
    points = Points(vectors, torch.ones(1, 2))
    start = torch.cat([torch.zeros(1, 2), torch.full((3, 2), 1e6)])
    careless = books._lloyd(points, start.clone(), 50, False)
    ours = books._lloyd(points, start.clone(), 50, True)
    assert len(careless.codes.unique()) == 1 and len(ours.codes.unique()) == 4
    assert ours.losses[-1] < 0.1 * careless.losses[-1]


def test_coordinates_without_weight_neither_attract_nor_become_nan():
    weights = torch.ones(1, 4)
    weights[0, 2:] = 0
    vectors = gaussian(100, 4)
    free = vectors.clone()
    free[:, 2:] = 1e6 * gaussian(100, 2, seed=1)
    found, other = (weighted_kmeans(Points(v, weights), 8, seeded()) for v in (vectors, free))
    assert torch.equal(found.codes, other.codes) and found.codebook.isfinite().all()


def test_the_best_of_the_restarts_is_kept():
    points = Points(gaussian(200, 3), torch.ones(1, 3))
    rng = seeded(4)
    losses = [weighted_kmeans(points, 16, rng, init="random").losses[-1] for _ in range(5)]
    assert losses.index(min(losses)) != 4
    assert weighted_kmeans(points, 16, seeded(4), init="random", restarts=5).losses[-1] == min(losses)


@pytest.mark.parametrize(("bits", "subvector"), [(2, 1), (2, 2), (2, 3), (1, 5)])
def test_a_layer_is_its_codebook_at_its_codes_between_its_scales(bits, subvector):
    weight, h = gaussian(40, 32), torch.rand(32, generator=seeded())
    layer = compress_layer("a", weight, h, bits=bits, subvector=subvector, iterations=5)
    groups = -(-32 // subvector)
    codes = unpack(layer.codes, bits * subvector, 40 * groups).long().view(40, groups)
    dense = layer.codebook.float()[codes].reshape(40, -1)[:, :32]
    dense = dense * layer.row_scales.float()[:, None] * layer.column_scales.float()
    torch.testing.assert_close(layer.weight, dense)
    assert len(layer.codebook.float()[codes].reshape(-1, subvector).unique(dim=0)) <= 2 ** (bits * subvector)
    assert (dense - weight).norm() < 0.8 * weight.norm()


def test_bytes_are_those_of_codes_codebook_and_scales(tmp_path):
    model = nn.Sequential(nn.Linear(384, 512, bias=False))
    small = nowag(model, calibration=[torch.ones(1, 384)], subvector=4, iterations=1, init="random")
    theory = 512 * 384 * 2 / 8 + 2 * 256 * 4 + 2 * (512 + 384)
    assert small[0].nbytes() == theory
    engine.save(small, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size <= 1.02 * theory


def test_padding_weighs_nothing(monkeypatch):
    seen = []
    real = books.weighted_kmeans
    monkeypatch.setattr(method, "weighted_kmeans", lambda points, *a, **o: seen.append(points) or real(points, *a, **o))
    compress_layer("a", gaussian(40, 32), torch.ones(32), subvector=3)
    (points,) = seen
    assert points.vectors.shape == (40 * 11, 3) and points.weights.shape == (11, 3)
    assert torch.equal(points.weights[-1], torch.tensor([1.0, 1.0, 0.0]))


def test_inputs_that_are_dead_in_the_calibration_keep_their_weights_at_no_cost_to_the_others():
    weight, h = gaussian(128, 32), torch.ones(32)
    h[16:] = 0
    layer = compress_layer("a", weight, h, subvector=4)
    live = compress_layer("a", weight[:, :16].contiguous(), h[:16], subvector=4)
    errors = [(layer.weight - weight)[:, part].norm() / weight[:, part].norm() for part in (slice(16), slice(16, 32))]
    assert errors[1] < 0.9
    assert errors[0] < 1.1 * (live.weight - weight[:, :16]).norm() / weight[:, :16].norm()
    assert compress_layer("a", weight, torch.zeros(32), subvector=2).weight.isfinite().all()


def test_weighting_lowers_the_weighted_error():
    weight, h = gaussian(256, 32), torch.logspace(-2, 2, 32)
    ours, plain = (compress_layer("a", weight, moments, subvector=4).weight for moments in (h, torch.ones(32)))
    assert (h * (ours - weight) ** 2).sum() < 0.7 * (h * (plain - weight) ** 2).sum()


def test_the_output_objective_lowers_the_error_of_the_output():
    weight = gaussian(256, 32) * torch.logspace(-1, 1, 32) * torch.logspace(-1, 1, 256)[:, None]
    ours, other = (
        compress_layer("a", weight, torch.ones(32), subvector=4, objective=o).weight for o in ("output", "normalised")
    )
    assert (ours - weight).norm() < 0.8 * (other - weight).norm()


def test_weights_of_any_size_fit_into_half_precision_scales():
    for size in (1e-6, 1.0, 1e6):
        weight = gaussian(64, 32)
        layer = compress_layer("a", size * weight, torch.ones(32), subvector=2)
        assert (layer.weight / size - weight).norm() < 0.6 * weight.norm(), size
    with pytest.raises(ParameterError, match="float16 cannot hold"):
        compress_layer("a", 1e14 * gaussian(64, 32), torch.ones(32), subvector=2)


def test_a_layer_computes_with_its_matrix_and_passes_gradients_to_its_inputs():
    layer = nowag(mlp(), calibration=BATCHES, subvector=3)[0]
    x = gaussian(2, 5, 32).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, x @ layer.weight.T + layer.bias)
    ours, theirs = (torch.autograd.grad(o.square().sum(), x)[0] for o in (y, x @ layer.weight.T + layer.bias))
    torch.testing.assert_close(ours, theirs)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_no_dense_matrix_waits_for_the_backward_pass():
    layer = nowag(nn.Sequential(nn.Linear(256, 256)), calibration=[torch.ones(1, 256)], subvector=2, iterations=1)[0]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(gaussian(3, 256).requires_grad_())
    assert max(saved, default=0) < 256 * 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_compressed_in_single_precision_and_given_back(dtype):
    half = mlp().to(dtype)
    batches = [batch.to(dtype) for batch in BATCHES]
    model = nowag(half, calibration=batches, subvector=3)
    assert {p.dtype for p in model.parameters()} == {dtype} == {model[0].weight.dtype}
    assert {model[0].codebook.dtype, model[0].row_scales.dtype, model[0].column_scales.dtype} == {torch.float16}
    assert model(BATCHES[0].to(dtype)).dtype == dtype
    sparse = nowag(half, calibration=batches, mode="prune")
    kept = sparse[0].weight != 0
    assert sparse[0].weight.dtype == dtype and torch.equal(sparse[0].weight[kept], half[0].weight[kept])


def test_casting_and_moving_keep_the_codebook_exact():
    model = nowag(mlp(), calibration=BATCHES, subvector=3)
    before = copy.deepcopy(model[0].state_dict())
    model.bfloat16().double().to("cpu")
    assert all(torch.equal(before[name], getattr(model[0], name)) for name in CodebookLinear.keeps)
    assert model[0].weight.dtype == torch.float64
    empty = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    x = gaussian(3, 32).double()
    assert torch.equal(empty(x), model(x))


def test_a_saved_model_loads_into_a_fresh_one(tmp_path):
    model, path = nowag(mlp(), calibration=BATCHES, subvector=3), tmp_path / "model.safetensors"
    model[0].bias.requires_grad_(False)
    engine.save(model, path)
    again = engine.load(mlp(), path, layers=paper.LAYERS)
    x = gaussian(3, 32)
    assert torch.equal(again(x), model(x))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    with pytest.raises(ParameterError, match="layers must have the class CodebookLinear of '0', got QuantizedLinear"):
        engine.load(mlp(), path)


def test_options_rebuild_an_empty_layer_of_the_same_shapes():
    layer = nowag(mlp(), calibration=BATCHES, subvector=3)[0]
    options = json.loads(json.dumps(layer.options()))
    assert {"bias", "dtype", "conv1d"} <= set(options)
    again = CodebookLinear.from_options(32, 50, device="meta", **options).to_empty(device="cpu")
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.weight, layer.weight) and again.nbytes() == layer.nbytes()


def test_dense_layers_come_back_in_their_own_kind():
    model = nowag(tiny("gpt2"), calibration=[TOKENS], subvector=2, iterations=3)
    dense = engine.dequantised(model)
    assert {type(m).__name__ for m in dense.modules()} == {type(m).__name__ for m in tiny("gpt2").modules()}
    with torch.no_grad():
        torch.testing.assert_close(dense(TOKENS).logits, model(TOKENS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"subvector": 2, "iterations": 5}, {"mode": "prune", "pattern": "1:2"}])
def test_a_layer_alone_gives_the_bits_that_the_model_gives(options):
    model = mlp()
    whole = nowag(model, calibration=BATCHES, **options)
    total = None
    with torch.no_grad():
        for batch in BATCHES:
            total = method.squares(total, model[:2](batch))
    one = compress_layer("2", matrix(model[2]).detach(), total[:-1] / total[-1], **options)
    only = nowag(model, calibration=BATCHES, include=["2"], **options)
    assert torch.equal(only[2].weight, whole[2].weight) and torch.equal(one.weight, whole[2].weight)


def test_a_layer_of_loftq_alone_gives_the_bits_that_the_model_gives():
    model = mlp()
    for options in ({"rounds": 0}, {"svd": "randomised"}):
        whole = loftq(model, bits=2, rank=4, **options)
        one = loftq_layer("2", model[2].weight.detach(), None, bits=2, rank=4, **options)
        assert torch.equal(one.weight, whole[2].weight) and one.bias is None
        again = type(one).from_options(50, 24, **json.loads(json.dumps(one.options())))
        again.load_state_dict(one.state_dict())
        assert torch.equal(again.weight, one.weight)


def test_conv1d_is_compressed_as_the_matrix_that_it_is():
    model = tiny("gpt2")
    before = matrix(model.transformer.h[0].attn.c_attn).clone()
    layer = nowag(model, calibration=[TOKENS], bits=4, subvector=2).transformer.h[0].attn.c_attn
    assert layer.weight.shape == before.shape == (96, 32) and (layer.weight - before).norm() < 0.2 * before.norm()
    sparse = nowag(model, calibration=[TOKENS], mode="prune", pattern="2:4").transformer.h[0].attn.c_attn
    assert type(sparse).__name__ == "Conv1D" and (matrix(sparse).reshape(-1, 4) != 0).sum(1).eq(2).all()


def test_a_language_model_generates_with_its_head_left_alone():
    model = nowag(tiny("llama"), calibration=[{"input_ids": TOKENS}], subvector=3, iterations=2)
    assert type(model.lm_head) is nn.Linear and len(engine.quantised_layers(model)) == 14
    assert model.generate(TOKENS, max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (2, 9)


def test_shared_layers_stay_shared_and_tied_weights_are_left_alone_or_refused_by_name():
    shared = nn.Linear(32, 32)
    model = nowag(nn.Sequential(shared, nn.ReLU(), shared), calibration=BATCHES, subvector=2)
    assert isinstance(model[0], CodebookLinear) and model[0] is model[2]
    tied = tiny("llama", tie_word_embeddings=True)
    assert type(nowag(tied, calibration=[TOKENS], subvector=2, iterations=0, exclude=[]).lm_head) is nn.Linear
    with pytest.raises(ParameterError, match="tied"):
        nowag(tied, calibration=[TOKENS], include=["lm_head"], exclude=[])


@pytest.mark.parametrize("options", [{"subvector": 2}, {"mode": "prune"}])
def test_the_model_is_copied_unless_inplace(options):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    assert nowag(model, calibration=BATCHES, **options) is not model
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    bias = model[0].bias
    assert nowag(model, calibration=BATCHES, inplace=True, **options) is model and model[0].bias is bias
    assert bias.requires_grad and not torch.equal(before["0.weight"], model[0].weight)


def test_a_seed_gives_one_result():
    first, second, other = (nowag(mlp(), calibration=BATCHES, subvector=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[0].codes, second[0].codes) and not torch.equal(first[0].codes, other[0].codes)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_vector_quantisation_passes_the_checks_of_its_kind(check, monkeypatch):
    """The conformance checks ask for a share of the weights, so that they see the other mode only."""

    def quantised(model, /, *, calibration, bits=2, include=("*",), exclude=engine.HEADS, inplace=False):
        """Half the kind's example layers fit 16 codes; changes nothing in place by default."""
        options = {"bits": bits, "include": include, "exclude": exclude, "inplace": inplace}
        return nowag(model, calibration=calibration, subvector=2, **options)

    loaded = load("nowag")
    monkeypatch.setattr(loaded.module, "nowag", quantised)
    monkeypatch.setattr(loaded.module, "example_options", lambda rng: {})
    check(dataclasses.replace(loaded))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits"),
        ({"bits": 1.5}, "bits"),
        ({"bits": 3, "subvector": 6}, "bits times subvector must be at most 16, got 18"),
        ({"subvector": 0}, "subvector"),
        ({"subvector": 8}, "subvector=8 at bits=2 needs 65536 codes, more than the 200 subvectors of 0"),
        ({"iterations": -1}, "iterations"),
        ({"restarts": 0}, "restarts"),
        ({"init": "kmeans"}, "init"),
        ({"seed": -1}, "seed"),
        ({"mode": "both"}, "mode"),
        ({"objective": "loss"}, "objective"),
        ({"remaining": 0.3}, "remaining is an option of mode='prune'"),
        ({"pattern": "2:4"}, "pattern is an option of mode='prune'"),
        ({"mode": "prune", "bits": 3}, "bits is an option of mode='vq'"),
        ({"mode": "prune", "remaining": 0.0}, "remaining"),
        ({"mode": "prune", "remaining": 1.5}, "remaining"),
        ({"mode": "prune", "remaining": math.nan}, "remaining"),
        ({"mode": "prune", "pattern": "4:2"}, "pattern must be unstructured, row, or N:M"),
        ({"mode": "prune", "pattern": "0:4"}, "pattern must be"),
        ({"mode": "prune", "pattern": "2 of 4"}, "pattern must be"),
        ({"mode": "prune", "pattern": "2:4", "remaining": 0.3}, "remaining is 2/4 by the pattern, got 0.3"),
        ({"mode": "prune", "pattern": "2:4"}, "pattern 2:4 needs inputs in groups of 4; exclude 2"),
        ({"include": ["nothing"]}, "no linear layer matches .* there are: 0, 2"),
        ({"include": "0"}, "lists of patterns"),
    ],
)
def test_bad_options_are_named_and_change_nothing(options, message):
    model = mlp()
    model.register_forward_pre_hook(lambda *_: pytest.fail("calibrated before the options were checked"))
    with pytest.raises(ParameterError, match=message):
        nowag(model, calibration=BATCHES, **({"inplace": True} | options))
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("mode", ["vq", "prune"])
def test_bad_calibration_is_named_and_changes_nothing(mode):
    options = {"mode": mode, "inplace": True, **({"subvector": 2} if mode == "vq" else {})}
    model = mlp()
    for calibration, message in (
        ([], "calibration batches are empty"),
        ([torch.full((2, 32), math.nan)], "calibration: what flows into 0 is not finite"),
        ([torch.full((2, 32), 1e30)], "second_moment of the calibration must be finite"),
    ):
        with pytest.raises(ParameterError, match=message):
            nowag(model, calibration=calibration, **options)
    side = nn.ModuleDict({"used": mlp(), "unused": nn.Linear(32, 32)})
    side.forward = lambda x: side["used"](x)
    with pytest.raises(ParameterError, match="calibration never reached unused"):
        nowag(side, calibration=BATCHES, **options)
    assert type(model[0]) is nn.Linear and not model[0]._forward_pre_hooks


def test_meta_bare_quantised_and_infinite_weights_are_refused():
    with pytest.raises(ParameterError, match="meta"):
        nowag(mlp().to("meta"), calibration=BATCHES, subvector=2)
    with pytest.raises(ParameterError, match="itself a linear layer"):
        nowag(nn.Linear(32, 32), calibration=BATCHES, subvector=2)
    with pytest.raises(ParameterError, match="no linear layer"):
        nowag(nowag(mlp(), calibration=BATCHES, subvector=2), calibration=BATCHES, subvector=2)
    model = mlp()
    with torch.no_grad():
        model[2].weight[3, 4] = math.inf
    with pytest.raises(ParameterError, match=r"2\.weight must be finite"):
        nowag(model, calibration=BATCHES, subvector=2)


@pytest.mark.parametrize("moment", [None, torch.ones(5), torch.full((32,), math.nan), -torch.ones(32)])
def test_a_layer_needs_the_moments_of_its_inputs(moment):
    with pytest.raises(ParameterError, match="a: second_moment"):
        compress_layer("a", gaussian(40, 32), moment, subvector=2)


def test_more_centres_than_vectors_are_refused():
    with pytest.raises(ParameterError, match="k must be from 1 to 3"):
        weighted_kmeans(Points(gaussian(3, 2), torch.ones(1, 2)), 4, seeded())


def test_distances_are_held_in_chunks():
    """Of 40,000 x 256 distances, 40 MB, only a chunk exists at a time."""
    points = Points(gaussian(40_000, 4), torch.ones(1, 4))
    largest = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            largest.append(out.numel() * out.element_size() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        weighted_kmeans(points, 256, seeded(), iterations=1)
    assert max(largest) <= 4 * books._DISTANCES["cpu"]


def test_claims_on_one_replicate():
    quick = (paper.norms_in_the_loss_help, paper.weighting_helps, paper.pruned_below_magnitude)
    for claim in (*quick, paper.wanda_wins_on_unequal_columns, paper.no_output_dominates):
        for arm, sign in (("main", 1), ("control", -1)):
            effect, _ = claim.effect(claim(generator("t", claim.name), **claim.arm(arm)))
            assert sign * (effect - claim.at_least) > 0, (claim.name, arm)


@pytest.mark.slow
def test_demo():
    scores = paper.demo(generator("t"))
    assert all(scores["as it is"] < other for name, other in scores.items() if name != "as it is")
    assert scores["at random"] == max(scores.values())
