"""Checks of ways to decode: what a caller of ``generate`` relies on, however the next token is chosen.

``PAPER.method`` names a class of processors, ``(input_ids, scores) -> scores``, or a function that generates,
``(model, input_ids, *, max_new_tokens, attention_mask, eos_token_id) -> ids``. What they are called with can be given
in the paper's file: ``example_model(rng)``, ``example_options(rng)``; see :class:`porism.kinds.protocols.Decoder`. A
file whose method can leave greedy text as it is says how: ``EXACT = {"option": value}``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import unittest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porism.registry import LoadedPaper, method
from porism.seeds import ROOT, generator
from porism.testing.replicates import error_of
from porism.testing.state import preserved

BATCH, PROMPT, NEW, PAD = 3, 7, 8, 0
PROCESSOR = "a processor, no function that generates"


def check_decoder_keeps_the_shape_of_scores(loaded: LoadedPaper) -> None:
    """A processor returns scores of the shape, dtype and device that it was given."""
    for batch in (BATCH, 1):
        ids, scores = _example(loaded, batch)
        got = _processor(loaded)(ids, scores)
        assert isinstance(got, Tensor), f"a processor returns a tensor of scores, got {type(got).__name__}"
        expected, found = ((tuple(t.shape), t.dtype, t.device) for t in (scores, got))
        assert found == expected, f"scores of {expected} come back as {found}"


def check_decoder_leaves_a_token(loaded: LoadedPaper) -> None:
    """A processor gives no NaN and no ``inf``, and leaves each row a token, even where others forbade all but one."""
    ids, scores = _example(loaded, BATCH)
    one_left = torch.full_like(scores, -torch.inf).scatter(1, scores.argmax(1, keepdim=True), 1.0)
    for what, given in (("normal scores", scores), ("scores of -inf but for one token", one_left)):
        got = _processor(loaded)(ids, given.clone())
        assert not bool(got.isnan().any() | got.isposinf().any()), f"{what} come back with NaN or inf"
        assert bool(got.isfinite().any(1).all()), f"of {what} a row comes back as -inf throughout; leave a token"


def check_decoder_treats_rows_alone(loaded: LoadedPaper) -> None:
    """The scores of a row do not depend on the other rows of the batch."""
    ids, scores = _example(loaded, BATCH)
    together = _processor(loaded)(ids, scores.clone())
    for row in range(BATCH):
        alone = _processor(loaded)(ids[row : row + 1], scores[row : row + 1].clone())
        assert torch.allclose(together[row], alone[0], rtol=1e-4, atol=1e-5), (
            f"row {row} of a batch comes back otherwise than alone; compute each row from itself only"
        )


def check_decoder_in_low_precision(loaded: LoadedPaper) -> None:
    """bfloat16 and float16 work: scores keep their dtype and a token, and models generate."""
    for dtype in (torch.bfloat16, torch.float16):
        if _is_processor(loaded):
            ids, scores = _example(loaded, BATCH)
            got: list[Tensor] = []
            error = error_of(functools.partial(_append, got, loaded, ids, scores.to(dtype)))
            assert error is None, f"scores in {dtype} fail: {error!r}"
            assert got[0].dtype == dtype, f"scores in {dtype} come back in {got[0].dtype}; cast them back"
            assert not got[0].isnan().any() and got[0].isfinite().any(1).all(), f"scores in {dtype} come back unusable"
        else:
            error = error_of(functools.partial(_generated, loaded, dtype=dtype))
            assert error is None, f"a model in {dtype} fails: {error!r}"


def check_decoder_generates(loaded: LoadedPaper) -> None:
    """A processor works in ``model.generate``, greedy and drawn, for batches and single prompts."""
    model = _model(loaded)
    for batch in (BATCH, 1):
        for sample in (False, True):
            processors = [_processor(loaded)]
            prompt = _prompts(model, batch)
            error = error_of(functools.partial(_generate, model, prompt, do_sample=sample, logits_processor=processors))
            assert error is None, f"generate(do_sample={sample}) of {batch} prompts fails with it: {error!r}"


def check_decoder_is_exact_where_it_says(loaded: LoadedPaper) -> None:
    """With the options in ``EXACT`` greedy text is that of ``generate(do_sample=False)``, token for token."""
    exact = getattr(loaded.module, "EXACT", None)
    if exact is None:
        raise unittest.SkipTest("the file has no EXACT: it does not say that greedy text stays as it is")
    model = _model(loaded, torch.float64)
    prompt = _prompts(model, BATCH)
    plain = _generate(model, prompt, do_sample=False)
    if _is_processor(loaded):
        ours = _generate(model, prompt, do_sample=False, logits_processor=[_processor(loaded, **exact)])
    else:
        ours = _generated(loaded, dtype=torch.float64, **exact)
    assert torch.equal(ours, plain), f"with EXACT = {exact} greedy text is not that of generate(do_sample=False)"


def check_decoder_is_deterministic(loaded: LoadedPaper) -> None:
    """The same call gives the same bits, and no global generator is drawn from: take a ``torch.Generator``."""

    def run() -> Tensor:
        if _is_processor(loaded):
            return torch.as_tensor(_processor(loaded)(*_example(loaded, BATCH)))
        return _generated(loaded)

    run()  # what is loaded at the first call is no draw
    with preserved() as changed:
        first, second = run(), run()
    assert not changed, f"decoding changes {', '.join(changed)}; take a torch.Generator, and undo what you set"
    assert torch.equal(first, second), "the same call with the same generator gives other bits the second time"


def check_decoder_keeps_its_inputs(loaded: LoadedPaper) -> None:
    """Nothing is written into ``input_ids``, ``scores`` or ``attention_mask``."""
    if _is_processor(loaded):
        inputs = dict(zip(("input_ids", "scores"), _example(loaded, BATCH), strict=True))
        before = copy.deepcopy(inputs)
        _processor(loaded)(**inputs)
    else:
        prompt = _prompts(_model(loaded), BATCH)
        mask = torch.ones_like(prompt)
        inputs = {"input_ids": prompt, "attention_mask": mask}
        before = copy.deepcopy(inputs)
        _generated(loaded, input_ids=prompt, attention_mask=mask)
    changed = [name for name in inputs if not torch.equal(inputs[name], before[name])]
    assert not changed, f"{', '.join(changed)} is changed in place; clone it first"


def check_decoder_keeps_the_prompt(loaded: LoadedPaper) -> None:
    """A generate loop returns integers that begin with the prompts, of one prompt as of several."""
    for batch in (BATCH, 1):
        prompt = _prompts(_model(loaded), batch)
        ids = _generated(loaded, input_ids=prompt)
        assert ids.ndim == 2 and not ids.is_floating_point(), f"ids must be integers in two dimensions, got {ids.dtype}"
        assert torch.equal(ids[:, :PROMPT], prompt), "what is returned does not begin with the prompts"


def check_decoder_obeys_max_new_tokens(loaded: LoadedPaper) -> None:
    """A generate loop adds ``max_new_tokens`` tokens where nothing ends a row, and never more."""
    for limit in (1, 2, NEW):
        added = _generated(loaded, max_new_tokens=limit).shape[1] - PROMPT
        assert added == limit, f"with max_new_tokens={limit} and no token that ends a row {added} tokens are added"


def check_decoder_ends_at_eos(loaded: LoadedPaper) -> None:
    """Behind the first token of ``eos_token_id`` a generate loop writes nothing but padding into the row."""
    model = _model(loaded)
    ends = list(range(model.config.vocab_size // 2, model.config.vocab_size))
    new = _generated(loaded, eos_token_id=ends, max_new_tokens=3 * NEW)[:, PROMPT:]
    ended = torch.isin(new, torch.tensor(ends))
    behind = new[ended.cumsum(1) - ended.long() > 0]
    assert not len(behind) or {*behind.tolist()} <= {PAD, *ends}, (
        f"behind a token of eos_token_id={ends[:2]}... stand {behind.tolist()[:5]} instead of padding"
    )
    late = [row for row in range(BATCH) if not ended[row].any() and new.shape[1] < 3 * NEW]
    assert not late, f"row {late[:1]} ends early, with no token of eos_token_id in it"
    running = ended.cumsum(1) - ended.long() == 0
    assert bool(running.any(0).all()), "generation goes on after every row has ended"


def check_decoder_respects_the_mask(loaded: LoadedPaper) -> None:
    """A row that is padded on the left, with its ``attention_mask``, gets the tokens that it gets alone."""
    options = getattr(loaded.module, "EXACT", None) or {}
    model = _model(loaded)
    prompt = _prompts(model, 2)
    run = functools.partial(_generated, loaded, dtype=torch.float64, **options)
    alone = [run(input_ids=row[None, cut:]) for row, cut in zip(prompt, (3, 0), strict=True)]
    if not torch.equal(alone[0], run(input_ids=prompt[:1, 3:], seed=1)):
        raise unittest.SkipTest("its tokens are drawn, and no EXACT says how they are not")
    padded, mask = prompt.clone(), torch.ones_like(prompt)
    padded[0, :3], mask[0, :3] = PAD, 0
    together = run(input_ids=padded, attention_mask=mask)
    for row, cut in enumerate((3, 0)):
        assert torch.equal(together[row, PROMPT:], alone[row][0, PROMPT - cut :]), (
            f"row {row} of a batch with padding on the left gets other tokens than alone; use attention_mask, and "
            "count positions from the first token"
        )


def check_decoder_leaves_the_model_alone(loaded: LoadedPaper) -> None:
    """A generate loop leaves parameters, their gradients, modes, hooks and configurations as they were."""
    model = _model(loaded)
    model.train()
    before = _state(model)
    _generated(loaded, model=model)
    after = _state(model)
    changed = [what for what in before if not _alike(before[what], after[what])]
    assert not changed, f"after generating the model's {', '.join(changed)} are not what they were; put them back"


def check_decoder_refuses_empty_prompts(loaded: LoadedPaper) -> None:
    """A prompt without a token raises an error that names ``input_ids``."""
    if _is_processor(loaded):
        raise unittest.SkipTest(PROCESSOR)
    for shape in ((1, 0), (0, PROMPT)):
        error = error_of(functools.partial(_generated, loaded, input_ids=torch.zeros(shape, dtype=torch.long)))
        assert isinstance(error, (ValueError, TypeError)) and "input_ids" in str(error), (
            f"input_ids of shape {shape} give {error!r}; raise porism.errors.ParameterError naming input_ids"
        )


def check_decoder_on_cuda(loaded: LoadedPaper) -> None:
    """On a GPU it works, and scores agree with the CPU's."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("no CUDA device")
    if not _is_processor(loaded):
        error = error_of(functools.partial(_generated, loaded, device="cuda"))
        assert error is None, f"a model on CUDA fails: {error!r}"
        return
    ids, scores = _example(loaded, BATCH)
    got: list[Tensor] = []
    error = error_of(functools.partial(_append, got, loaded, ids, scores, "cuda"))
    assert error is None, f"scores on CUDA fail: {error!r}; make new tensors on the device of the scores"
    assert got[0].is_cuda, f"scores on CUDA come back on {got[0].device}"
    torch.testing.assert_close(got[0].cpu(), _processor(loaded)(ids, scores), rtol=1e-3, atol=1e-4)


def _is_processor(loaded: LoadedPaper) -> bool:
    offered: Any = method(loaded)
    return isinstance(offered, type)


def _options(loaded: LoadedPaper) -> dict[str, Any]:
    """A new copy of the file's example options."""
    example = getattr(loaded.module, "example_options", None)
    return {} if example is None else dict(example(generator(ROOT, loaded.paper.key, "options")))


def _processor(loaded: LoadedPaper, **options: Any) -> Any:
    if not _is_processor(loaded):
        raise unittest.SkipTest("a function that generates, no processor")
    kind: Any = method(loaded)
    return kind(**{**_options(loaded), **options})


def _append(found: list[Tensor], loaded: LoadedPaper, ids: Tensor, scores: Tensor, device: str = "cpu") -> None:
    processor = _processor(loaded)
    for part in vars(processor).values():
        if isinstance(part, nn.Module):
            part.to(device)
    found.append(processor(ids.to(device), scores.clone().to(device)))


def _model(loaded: LoadedPaper, dtype: torch.dtype = torch.float32) -> Any:
    """The file's example model, or a Llama with random weights."""
    rng = generator(ROOT, loaded.paper.key, "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        model: Any = getattr(loaded.module, "example_model", tiny_random_llama)(rng)
    model.generation_config.pad_token_id = PAD
    return model.to(dtype).eval()


def tiny_random_llama(rng: np.random.Generator) -> Any:
    """The example model of files that have none; its weights come from torch's generator, which the caller seeds."""
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _prompts(model: Any, batch: int) -> Tensor:
    """Prompts of tokens that are no padding."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(PAD + 1, model.config.vocab_size, size=(batch, PROMPT)))


def _example(loaded: LoadedPaper, batch: int) -> tuple[Tensor, Tensor]:
    """Tokens and float32 scores for one call of a processor."""
    model, rng = _model(loaded), generator(ROOT, loaded.paper.key, "scores")
    scores = rng.normal(scale=3, size=(batch, model.config.vocab_size))
    return _prompts(model, batch), torch.from_numpy(scores).float()


def _generate(model: Any, prompt: Tensor, **options: Any) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ids: Tensor = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, pad_token_id=PAD, **options
        )
    return ids


def _generated(
    loaded: LoadedPaper,
    *,
    model: Any = None,
    input_ids: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """What a generate loop gives for the example, with the file's options and a generator if it takes one."""
    if _is_processor(loaded):
        raise unittest.SkipTest(PROCESSOR)
    loop: Any = method(loaded)
    model = (_model(loaded, dtype) if model is None else model).to(device)
    given = {"max_new_tokens": NEW, **_options(loaded), **options}
    if "generator" in inspect.signature(loop).parameters:
        given["generator"] = torch.Generator().manual_seed(seed)
    given = {name: part.to(device, dtype) if isinstance(part, nn.Module) else part for name, part in given.items()}
    prompt = _prompts(model, BATCH) if input_ids is None else input_ids
    result = loop(model, prompt.to(device), **given)
    ids: Tensor = getattr(result, "sequences", result)
    assert isinstance(ids, Tensor), f"a generate loop returns ids, or what has them as .sequences, got {type(ids)}"
    return ids


def _state(model: nn.Module) -> dict[str, Any]:
    parameters = dict(model.named_parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    configs = {name: getattr(model, name, None) for name in ("config", "generation_config")}
    return {
        "parameters": {name: p.detach().clone() for name, p in parameters.items()},
        "buffers": {name: b.clone() for name, b in model.named_buffers()},
        "gradients": {name: p.grad is not None for name, p in parameters.items()},
        "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "hooks": {name: [len(getattr(m, kind)) for kind in hooks] for name, m in model.named_modules()},
        "configurations": {name: copy.deepcopy(vars(config)) for name, config in configs.items() if config},
    }


def _alike(before: dict[str, Any], after: dict[str, Any]) -> bool:
    if before.keys() != after.keys():
        return False
    pairs = [(before[name], after[name]) for name in before]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
