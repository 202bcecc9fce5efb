"""Speculative decoding: the target's law by enumeration of every random outcome, greedy text, rows, caches, bad input."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList

from porism.errors import ParameterError
from porism.testbeds import corpus, tiny_llama
from porism_plugins.spec import _verify as verify
from porism_plugins.spec._drafts import Context, FunctionDraft, ModelDraft, PromptLookup
from porism_plugins.spec._engine import speculative_generate
from porism_plugins.spec._proposal import Proposal
from porism_plugins.spec._reader import Reader
from porism_plugins.spec._scores import Scores

PROMPTS = torch.tensor([[0, 0, 3, 4, 5], [1, 2, 3, 4, 6], [0, 0, 0, 0, 7]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
WARPERS = LogitsProcessorList(
    [
        transformers.TemperatureLogitsWarper(0.7),
        transformers.TopKLogitsWarper(3),
        transformers.TopPLogitsWarper(0.9),
    ]
)
REPETITION = LogitsProcessorList([transformers.RepetitionPenaltyLogitsProcessor(1.7)])


def llama(layers=2, vocabulary=20, seed=0, dtype=torch.float64, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5, bos_token_id=None, eos_token_id=None,
            **options,
        )  # fmt: skip
        return LlamaForCausalLM(config).to(dtype).eval()


def generators(n, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(n)]


def leaning(model, weight=0.5):
    """A draft that is near its target: a copy with noisy weights."""
    near = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter += weight * 0.3 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
    return near


def law_of(monkeypatch, run):
    """The exact law of what ``run()`` returns, over every outcome of every random decision."""
    law, pending = Counter(), [[]]
    while pending:
        script, taken, weight = pending.pop(), [], [1.0]

        def choose(options, script=script, taken=taken, weight=weight):
            if len(taken) < len(script):
                pick = script[len(taken)]
            else:
                possible = [i for i, p in enumerate(options) if p > 0]
                pick = possible[0]
                pending.extend([*taken, other] for other in possible[1:])
            taken.append(pick)
            weight[0] *= options[pick]
            return pick

        accepting = lambda p, _, choose=choose: choose([1 - min(p, 1.0), min(p, 1.0)]) == 1  # noqa: E731
        monkeypatch.setattr(verify, "accepts", accepting)
        monkeypatch.setattr(verify, "draws", lambda p, _, choose=choose: choose(p.tolist()))
        law[run()] += weight[0]
    return law


def assert_same_law(ours, theirs, tolerance=1e-10):
    assert math.isclose(sum(ours.values()), 1, abs_tol=tolerance)
    for outcome in set(ours) | set(theirs):
        assert ours[outcome] == pytest.approx(theirs[outcome], abs=tolerance), outcome


class Tables:
    """Conditional distributions of the next token, a random one for each prefix."""

    def __init__(self, seed, vocabulary=3, zeros=False):
        self.rng, self.vocabulary, self.zeros, self.known = np.random.default_rng(seed), vocabulary, zeros, {}

    def __call__(self, prefix):
        if prefix not in self.known:
            p = self.rng.dirichlet(np.full(self.vocabulary, 0.6))
            if self.zeros:
                p[self.rng.integers(self.vocabulary)] = 0
            self.known[prefix] = torch.from_numpy(p / p.sum())
        return self.known[prefix]

    def law(self, length):
        found = Counter()
        for path in itertools.product(range(self.vocabulary), repeat=length):
            found[path] = math.prod(float(self(path[:i])[token]) for i, token in enumerate(path))
        return found


def finish(p, path, length):
    """Go on with the target itself, so that every outcome has one length."""
    while len(path) < length:
        path = (*path, verify.draws(p(path), None))
    return path


def chain_run(p, q, length):
    def run():
        tokens = ()
        for _ in range(length):
            tokens = (*tokens, verify.draws(q(tokens), None))
        theirs = torch.stack([p(tokens[:i]) for i in range(length + 1)])
        ours = torch.stack([q(tokens[:i]) for i in range(length)])
        accepted, token = verify.verify_chain(theirs, ours, torch.tensor(tokens), None)
        return finish(p, (*(tokens[i] for i in accepted), token), length + 1)

    return run


def tree_run(p, q, widths, siblings, lie=False):
    """Grow a tree with ``widths`` children at each depth, verify it, and return the tokens."""

    def run():
        tokens, parents, laws, paths = [], [], [], []
        level = [(-1, ())]
        for width in widths:
            below = []
            for node, path in level:
                law = q(path)
                for _ in range(width):
                    if siblings == "chosen":
                        token = int(torch.where(law < 0, -1.0, law).argmax())
                    else:
                        token = verify.draws(law, None)
                    tokens.append(token)
                    parents.append(node)
                    laws.append(torch.full_like(law, 1 / len(law)) if lie else law)
                    paths.append((*path, token))
                    below.append((len(tokens) - 1, paths[-1]))
                    if siblings != "independent":
                        law = law.clone()
                        law[token] = -1 if siblings == "chosen" else 0
                        if siblings == "without replacement":
                            law = law / law.sum()
            level = below
        theirs = torch.stack([p(()), *(p(path) for path in paths)])
        ours = None if siblings == "chosen" else torch.stack(laws)
        found = verify.verify_tree(theirs, ours, torch.tensor(tokens), torch.tensor(parents), None)
        return finish(p, (*(tokens[i] for i in found.accepted), found.token), len(widths) + 1)

    return run


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("length", "seed"), [(1, 0), (2, 1), (3, 2)])
def test_a_chain_keeps_the_law_of_the_target(monkeypatch, length, seed, zeros):
    p, q = Tables(seed, zeros=zeros), Tables(seed + 100, zeros=zeros)
    assert_same_law(law_of(monkeypatch, chain_run(p, q, length)), p.law(length + 1))


@pytest.mark.parametrize("siblings", ["independent", "without replacement", "chosen"])
@pytest.mark.parametrize("widths", [(2,), (3,), (2, 1), (1, 2)])
def test_a_tree_keeps_the_law_of_the_target(monkeypatch, widths, siblings):
    p, q = Tables(0), Tables(100)
    assert_same_law(law_of(monkeypatch, tree_run(p, q, widths, siblings)), p.law(len(widths) + 1))


def test_the_enumeration_sees_a_wrong_law(monkeypatch):
    p, q = Tables(0), Tables(100)
    lying = law_of(monkeypatch, tree_run(p, q, (2,), "without replacement", lie=True))
    assert max(abs(lying[path] - value) for path, value in p.law(2).items()) > 1e-3


def test_a_chain_is_accepted_as_often_as_the_laws_overlap(monkeypatch):
    p, q = Tables(0)(()), Tables(100)(())

    def run():
        token = verify.draws(q, None)
        return len(verify.verify_chain(torch.stack([p, p]), q[None], torch.tensor([token]), None).accepted)

    assert law_of(monkeypatch, run)[1] == pytest.approx(float(torch.minimum(p, q).sum()), abs=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_what_is_left_and_what_is_accepted_make_the_target(seed, vocabulary):
    """One step in closed form, siblings and all."""
    p, q = Tables(seed, vocabulary)(()), Tables(seed + 1, vocabulary)(())
    direct = torch.minimum(p, q)
    rejected = 1 - direct.sum()
    second = torch.zeros_like(p)
    for token in range(vocabulary):
        left = verify.residual(p, q, token)
        second += q[token] * (1 - min(1.0, float(p[token] / q[token]))) * left
    torch.testing.assert_close(second.sum(), rejected)
    torch.testing.assert_close(direct + second, p)


ENUMERATED = [
    pytest.param(
        kind, processors, marks=[pytest.mark.slow] if "tree" in kind and name != "warped" else [], id=f"{kind}-{name}"
    )
    for kind in ("chain", "tree", "whole tree", "function")
    for name, processors in (("plain", None), ("warped", WARPERS), ("repetition", REPETITION))
]


@pytest.mark.parametrize(("kind", "processors"), ENUMERATED)
def test_generated_text_has_the_law_of_the_target(monkeypatch, kind, processors):
    """The whole engine, every outcome enumerated: three tokens of a vocabulary of three."""
    target, small = llama(1, 3), llama(1, 3, seed=5)
    draft = {
        "chain": small,
        "tree": ModelDraft(small, widths=(2, 2)),
        "whole tree": ModelDraft(small, widths=(2,), expand="all"),
        "function": lambda tokens, n, g: [int(tokens[-1])] * n,
    }[kind]
    prompt, scores = torch.tensor([[1, 0]]), Scores(processors)

    def run():
        options = {"max_new_tokens": 3, "draft_length": 2, "do_sample": True, "logits_processor": processors}
        found = speculative_generate(target, prompt, draft=draft, generator=generators(1), **options)
        return tuple(found.sequences[0, 2:].tolist())

    expected = Counter()
    with torch.no_grad():
        for path in itertools.product(range(3), repeat=3):
            weight = 1.0
            for i, token in enumerate(path):
                before = [1, 0, *path[:i]]
                logits = target(torch.tensor([before])).logits[0, -1:]
                weight *= float(scores.probabilities(logits, [(before, [])], "target")[0, token])
            expected[path] = weight
    assert_same_law(law_of(monkeypatch, run), expected)


def test_samples_are_those_of_generate():
    """Two samples of 2,000 texts of two tokens, homogeneous at the level of 0.001 that was set before."""
    target, draft, n = llama(2, 6), ModelDraft(llama(1, 6, seed=5), widths=(2,)), 2000
    prompt = torch.tensor([[1, 2, 3]]).expand(n, 3)
    warpers = LogitsProcessorList([transformers.TemperatureLogitsWarper(1.5), transformers.TopKLogitsWarper(4)])
    options = {"max_new_tokens": 2, "do_sample": True}
    ours = speculative_generate(
        target, prompt, draft=draft, generator=generators(1)[0], logits_processor=warpers, **options
    ).sequences
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = target.generate(prompt, temperature=1.5, top_k=4, pad_token_id=0, **options)
    counts = np.array([np.bincount(6 * s[:, 3] + s[:, 4], minlength=36) for s in (ours, theirs)])
    assert chi2_contingency(counts[:, counts.sum(0) >= 10]).pvalue > 0.001


@pytest.fixture(scope="session")
def trained():
    """A target and an aligned draft, characters of real text, in float64."""
    text = corpus(np.random.default_rng(0))
    target = tiny_llama(text.train, hidden=48, steps=150)
    draft = tiny_llama(text.train, hidden=24, layers=1, steps=150, seed=1)
    return target.double(), draft.double(), torch.from_numpy(text.test)


DRAFTS = {
    "good": lambda target, draft: draft,
    "perfect": lambda target, draft: target,
    "bad": lambda target, draft: llama(1, 96),
    "comb": lambda target, draft: ModelDraft(draft, widths=(3, 2, 2, 2)),
    "tree": lambda target, draft: ModelDraft(draft, widths=(2, 2), expand="all"),
    "lookup": lambda target, draft: PromptLookup(),
    "adversarial": lambda target, draft: FunctionDraft(wrong(target)),
    "silent": lambda target, draft: lambda tokens, n, g: [],
    "stuttering": lambda target, draft: lambda tokens, n, g: Proposal([5, 5, 5, 5], [-1, -1, 0, 1]),
}


def wrong(target):
    """Right at first, then the least probable token."""

    def propose(tokens, n, generator):
        ids = tokens[None]
        for _ in range(n):
            with torch.no_grad():
                ids = torch.cat([ids, target(ids).logits[:, -1:].argmax(-1)], 1)
        ids[0, -1] = target(ids[:, :-1]).logits[0, -1].argmin()
        return ids[0, len(tokens) :].tolist()

    return propose


def plain(target, prompt, n, **options):
    """What ``generate`` gives; with a ``pad_token_id`` it and its assistant would take that token for padding."""
    return target.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, do_sample=False, **options)


@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_greedy_text_is_that_of_generate(trained, kind, dtype):
    target, draft, text = trained
    target, prompt = copy.deepcopy(target).to(dtype), text[None, :40]
    proposer = DRAFTS[kind](target, copy.deepcopy(draft).to(dtype))
    expected = plain(target, prompt, 40)
    found = speculative_generate(target, prompt, draft=proposer, max_new_tokens=40)
    assert torch.equal(found.sequences, expected)
    statistics = found.statistics
    assert statistics.new_tokens == [40] == [sum(statistics.accepted[0]) + statistics.target_calls]
    if kind == "perfect":
        assert (statistics.acceptance_rate, statistics.target_calls, statistics.draft_calls) == (1, 8, 32)
    if kind == "adversarial":
        assert all(a == d - 1 for a, d in zip(statistics.accepted[0], statistics.drafted[0], strict=True) if d)
    if kind == "silent":
        assert statistics.target_calls == 40 and math.isnan(statistics.acceptance_rate)


def test_fewer_calls_than_assisted_generation(trained):
    """The same draft model, the same draft length, no confidence threshold; a comb costs the draft no call more."""
    target, draft, text = trained
    theirs = ours = comb = 0
    for start in range(0, 500, 100):
        prompt = text[None, start : start + 60]
        calls = []
        handle = target.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        helper = copy.deepcopy(draft)
        helper.generation_config.update(
            num_assistant_tokens=4, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
        )
        expected = plain(target, prompt, 60, assistant_model=helper)
        handle.remove()
        theirs += len(calls)
        chain = speculative_generate(target, prompt, draft=draft, max_new_tokens=60)
        tree = speculative_generate(target, prompt, draft=ModelDraft(draft, widths=(2,) * 4), max_new_tokens=60)
        assert torch.equal(chain.sequences, expected) and torch.equal(tree.sequences, expected)
        ours, comb = ours + chain.statistics.target_calls, comb + tree.statistics.target_calls
    assert comb < theirs == ours, (comb, theirs, ours)


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["good", "bad", "comb", "tree", "lookup", "perfect"])
def test_a_batch_is_its_rows_and_a_cache_changes_nothing(kind, do_sample):
    target = llama()
    make = lambda: DRAFTS[kind](target, leaning(target)) if kind != "bad" else llama(1)  # noqa: E731
    options = {"max_new_tokens": 17, "do_sample": do_sample, "draft_length": 3, "logits_processor": REPETITION}
    batch = speculative_generate(target, PROMPTS, attention_mask=MASK, draft=make(), generator=generators(3), **options)
    fresh = speculative_generate(
        target, PROMPTS, attention_mask=MASK, draft=make(), generator=generators(3), use_cache=False, **options
    )
    assert torch.equal(batch.sequences, fresh.sequences)
    assert batch.statistics == fresh.statistics
    for r in range(3):
        alone = speculative_generate(
            target, PROMPTS[r][MASK[r].bool()][None], draft=make(), generator=generators(1, r), **options
        )
        assert torch.equal(batch.sequences[r, 5:], alone.sequences[0, -17:])
        assert batch.statistics.accepted[r] == alone.statistics.accepted[0]
    if kind in ("good", "comb", "tree"):
        assert len({tuple(accepted) for accepted in batch.statistics.accepted}) == 3, "rows go at their own pace"


def test_greedy_batches_are_those_of_generate():
    target = llama()
    expected = target.generate(PROMPTS, attention_mask=MASK, max_new_tokens=20, do_sample=False, pad_token_id=0)
    right = [torch.cat([p[m.bool()], p[~m.bool()]]) for p, m in zip(PROMPTS, MASK, strict=True)]
    flipped = [torch.cat([m[m.bool()], m[~m.bool()]]) for m in MASK]
    for prompts, mask in ((PROMPTS, MASK), (torch.stack(right), torch.stack(flipped))):
        found = speculative_generate(
            target, prompts, attention_mask=mask, draft=leaning(target), max_new_tokens=20
        ).sequences
        assert torch.equal(found[:, 5:], expected[:, 5:])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_tree_reads_as_its_paths_do(attention):
    model = llama(attn_implementation=attention)
    reader = Reader(model)
    trees = [Proposal([1, 2, 3, 4], [-1, -1, 1, 0]), Proposal([5], [-1])]
    first = [[7, 8, 9], [3]]
    for sequences in (first, [[7, 8, 9, 2, 3, 6], [3, 5, 5]]):  # then along 2 and 3, and along 5
        logits = reader.read([0, 1], sequences, trees)
        for sequence, tree, found in zip(sequences, trees, logits, strict=True):
            paths = [[], *([tree.tokens[i] for i in verify_path(n, tree.parents)] for n in range(len(tree.tokens)))]
            for path, row in zip(paths, found, strict=True):
                with torch.no_grad():
                    torch.testing.assert_close(row, model(torch.tensor([[*sequence, *path]])).logits[0, -1])
    assert reader.cache.get_seq_length() == 5 + 5, "5 slots kept for the longer row, then 1 token and 4 drafts"


def verify_path(node, parents):
    return [] if node < 0 else [*verify_path(parents[node], parents), node]


def test_rows_end_at_their_own_end():
    target = llama()
    expected = target.generate(
        PROMPTS, attention_mask=MASK, max_new_tokens=20, do_sample=False, eos_token_id=[2, 11], pad_token_id=0
    )
    for draft in (target, leaning(target), ModelDraft(leaning(target), widths=(2, 2))):
        found = speculative_generate(
            target, PROMPTS, attention_mask=MASK, draft=draft, max_new_tokens=20, eos_token_id=[2, 11], pad_token_id=0
        )
        assert torch.equal(found.sequences, expected)
    assert len(set(found.statistics.new_tokens)) > 1
    target.generation_config.eos_token_id = 11
    own = speculative_generate(target, PROMPTS[:1, 2:], draft=target, max_new_tokens=20)
    given_ = speculative_generate(target, PROMPTS[:1, 2:], draft=target, max_new_tokens=20, eos_token_id=11)
    assert torch.equal(own.sequences, given_.sequences)
    none = speculative_generate(target, PROMPTS[:1, 2:], draft=target, max_new_tokens=20, eos_token_id=())
    assert none.statistics.new_tokens == [20]


def test_stopping_criteria_are_asked_after_every_token():
    target = llama()
    stop = transformers.StoppingCriteriaList([transformers.MaxLengthCriteria(max_length=9)])
    found = speculative_generate(
        target, PROMPTS, attention_mask=MASK, draft=target, max_new_tokens=20, stopping_criteria=stop
    )
    assert found.statistics.new_tokens == [6, 4, 8]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
@pytest.mark.parametrize("draft_length", [1, 4, 30])
def test_no_token_more_than_asked_for(limit, draft_length):
    target = llama()
    options = {"max_new_tokens": limit, "draft_length": draft_length}
    found = speculative_generate(target, PROMPTS[1:2], draft=target, **options)
    assert found.statistics.new_tokens == [limit] and found.sequences.shape == (1, 5 + limit)
    assert found.statistics.target_calls == math.ceil(limit / (draft_length + 1))
    assert found.statistics.draft_calls == limit - found.statistics.target_calls, "nothing is drafted beyond the end"
    long = speculative_generate(target, PROMPTS[1:2], draft=lambda t, n, g: [1] * 50, **options)
    assert long.statistics.new_tokens == [limit] and max(long.statistics.drafted[0]) <= draft_length


def test_global_state_modes_and_gradients_are_left_alone():
    target, draft = llama(attention_dropout=0.5).train(), llama(1).train()
    draft.model.norm.eval()
    state = torch.get_rng_state()
    runs = [
        speculative_generate(
            target, PROMPTS, draft=draft, max_new_tokens=9, do_sample=True, generator=torch.Generator().manual_seed(3)
        )
        for _ in range(2)
    ]
    assert torch.equal(runs[0].sequences, runs[1].sequences) and runs[0].statistics == runs[1].statistics
    assert torch.equal(state, torch.get_rng_state())
    assert target.training and draft.training and not draft.model.norm.training
    assert all(p.grad is None for p in target.parameters()) and not runs[0].sequences.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("widths", [(), (2, 2)])
def test_low_precision(dtype, widths):
    target = llama(dtype=dtype)
    for do_sample in (False, True):
        found = speculative_generate(
            target, PROMPTS, attention_mask=MASK, draft=ModelDraft(target, widths=widths), max_new_tokens=12,
            do_sample=do_sample, generator=generators(3),
        )  # fmt: skip
        assert found.statistics.new_tokens == [12] * 3
        assert found.statistics.acceptance_rate > 0.8, "rounding alone parts a model from itself"


def test_other_architectures():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gpt = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
                                    bos_token_id=0, eos_token_id=None)
        ).double().eval()  # fmt: skip
        bloom = transformers.BloomForCausalLM(
            transformers.BloomConfig(vocab_size=20, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.5,
                                     bos_token_id=0, eos_token_id=None)
        ).double().eval()  # fmt: skip
    for model, widths in ((gpt, ()), (gpt, (2, 2)), (bloom, ())):
        draft = ModelDraft(leaning(model), widths=widths)
        found = speculative_generate(model, PROMPTS, attention_mask=MASK, draft=draft, max_new_tokens=20)
        for row, mask, ours in zip(PROMPTS, MASK, found.sequences, strict=True):  # padded, Bloom itself gives NaN
            assert torch.equal(ours[5:], plain(model, row[mask.bool()][None], 20)[0, -20:])
    with pytest.raises(ParameterError, match=r"Bloom.* cannot read trees"):
        speculative_generate(bloom, PROMPTS, draft=ModelDraft(gpt, widths=(2,)), max_new_tokens=4)


def test_sliding_windows_are_refused_or_read_anew():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.MistralConfig(
            vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, sliding_window=4, initializer_range=0.5, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = transformers.MistralForCausalLM(config).double().eval()
    expected = plain(model, PROMPTS[1:2], 20)
    with pytest.raises(ParameterError, match=r"target: MistralForCausalLM has sliding .* use_cache=False"):
        speculative_generate(model, PROMPTS[1:2], draft=PromptLookup(), max_new_tokens=20)
    found = speculative_generate(model, PROMPTS[1:2], draft=PromptLookup(), max_new_tokens=20, use_cache=False)
    assert torch.equal(found.sequences, expected)
    draft = ModelDraft(llama(), widths=(2,))
    with pytest.raises(ParameterError, match="cannot read trees"):
        speculative_generate(model, PROMPTS[1:2], draft=draft, max_new_tokens=20, use_cache=False)


def test_a_draft_sees_what_the_target_thought():
    target, seen = llama(), []

    class Watching(PromptLookup):
        def begin(self):
            seen.clear()

        def observe(self, context, proposals, logits):
            seen.append(
                [
                    (len(s), len(p.tokens), tuple(x.shape))
                    for s, p, x in zip(context.sequences, proposals, logits, strict=True)
                ]
            )

    speculative_generate(target, PROMPTS, attention_mask=MASK, draft=Watching(), max_new_tokens=8)
    assert [length for length, _, _ in seen[0]] == [3, 5, 1]
    assert all(shape == (n + 1, 20) for step in seen for _, n, shape in step)


def test_siblings_are_drawn_without_replacement():
    draft = ModelDraft(llama(), widths=(4, 2), expand="all")
    (found,) = draft.propose(Context([0], [[1, 2, 3]], [2], generators(1), Scores(None)))
    assert found.parents == [-1] * 4 + [0, 0, 1, 1, 2, 2, 3, 3]
    for node, parent in enumerate(found.parents):
        earlier = [found.tokens[i] for i in range(node) if found.parents[i] == parent]
        assert found.tokens[node] not in earlier and not found.probabilities[node, earlier].any()
    torch.testing.assert_close(found.probabilities.sum(-1), torch.ones(12, dtype=torch.float64))


def test_lookup_finds_the_last_occurrence():
    context = Context([0, 1, 2], [[1, 2, 3, 9, 1, 2, 4, 1, 2], [1, 2, 3], [7, 7, 7]], [3, 3, 2], None, Scores(None))
    assert [p.tokens for p in PromptLookup().propose(context)] == [[4, 1, 2], [], [7]]


BAD = {
    "vocabularies": ({"draft": lambda: llama(1, 21)}, "draft has a vocabulary of 21 tokens, target of 20"),
    "no length": ({"draft_length": 0}, "draft_length must be int and at least 1, got 0"),
    "negative length": ({"draft_length": -2}, "draft_length"),
    "no new tokens": ({"max_new_tokens": 0}, "max_new_tokens must be int and at least 1"),
    "fractional": ({"max_new_tokens": 2.5}, "max_new_tokens"),
    "empty prompt": ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "a prompt is empty"),
    "no rows": ({"input_ids": torch.zeros(0, 4, dtype=torch.long)}, "input_ids must be integers"),
    "padding only": ({"attention_mask": torch.zeros(3, 5)}, "a prompt is empty"),
    "floats": ({"input_ids": torch.zeros(1, 4)}, "input_ids must be integers"),
    "one dimension": ({"input_ids": torch.zeros(4, dtype=torch.long)}, "input_ids must be integers"),
    "prompt out of range": ({"input_ids": torch.tensor([[20]])}, r"input_ids: token 20 is out of .* \[0, 20\)"),
    "mask": ({"attention_mask": torch.ones(3, 4)}, "attention_mask must have the shape"),
    "token out of range": ({"draft": lambda: lambda t, n, g: [3, 20]}, r"draft: token 20 is out of"),
    "negative token": ({"draft": lambda: lambda t, n, g: [-1]}, "draft: token -1 is out of"),
    "orphan": ({"draft": lambda: lambda t, n, g: Proposal([1, 2], [1, -1])}, "parents must come before"),
    "parents": ({"draft": lambda: lambda t, n, g: Proposal([1, 2], [-1])}, "parents must be one for each of 2"),
    "no law": ({"draft": lambda: lambda t, n, g: Proposal([1], None, torch.ones(1, 20))}, "add up to 1"),
    "another vocabulary's law": (
        {"draft": lambda: lambda t, n, g: Proposal([1], None, torch.full((1, 7), 1 / 7))},
        r"must have shape \(1, 20\)",
    ),
    "impossible token": (
        {
            "draft": lambda: lambda t, n, g: Proposal([1], None, torch.eye(20)[:1]),
            "do_sample": True,
            "generator": torch.Generator(),
        },
        "token 1 has probability 0.0 under",
    ),
    "no draft": ({"draft": lambda: 3}, "draft must be a model, a function or have propose"),
    "no generator": ({"do_sample": True}, "generator must be a torch.Generator"),
    "too few generators": ({"do_sample": True, "generator": [torch.Generator()]}, "one for each of 3 rows"),
    "no model": ({"target": torch.nn.Linear(2, 2)}, "target must be a causal language model of transformers"),
    "widths": ({"draft": lambda: ModelDraft(llama(), widths=(2, 0))}, "widths must be at least 1"),
    "expand": ({"draft": lambda: ModelDraft(llama(), expand="some")}, "expand must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    options, message = BAD[name]
    arguments = {"target": llama(), "input_ids": PROMPTS, "draft": lambda: llama(1), "max_new_tokens": 5} | options
    with pytest.raises(ParameterError, match=message):
        speculative_generate(**(arguments | {"draft": arguments["draft"]()}))


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_named(do_sample, value):
    broken = llama()
    broken.lm_head.weight.data[3] = value
    options = {"max_new_tokens": 5, "do_sample": do_sample, "generator": torch.Generator()}
    with pytest.raises(ParameterError, match="target: logits are NaN or infinite"):
        speculative_generate(broken, PROMPTS, draft=PromptLookup(), **options)
    if do_sample:
        with pytest.raises(ParameterError, match="draft: logits are NaN"):
            speculative_generate(llama(), PROMPTS, draft=broken, **options)


def test_encoder_decoders_and_models_without_a_cache():
    config = transformers.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    encoder_decoder = transformers.T5ForConditionalGeneration(config)
    for options in ({"target": encoder_decoder, "draft": llama()}, {"target": llama(), "draft": encoder_decoder}):
        with pytest.raises(ParameterError, match="T5ForConditionalGeneration is an encoder-decoder"):
            speculative_generate(input_ids=PROMPTS, max_new_tokens=5, **options)
    mamba = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, bos_token_id=0, eos_token_id=None)
    ).eval()
    with pytest.raises(ParameterError, match="use_cache=False"):
        speculative_generate(mamba, PROMPTS, draft=PromptLookup(), max_new_tokens=5)
    expected = plain(mamba, PROMPTS[1:2], 12)
    found = speculative_generate(mamba, PROMPTS[1:2], draft=PromptLookup(), max_new_tokens=12, use_cache=False)
    assert torch.equal(found.sequences, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3) / 3, None, torch.tensor([1, 2])), r"target_probs must have shape \(n \+ 1"),
        ((torch.ones(2, 3) / 3, torch.ones(1, 4) / 4, torch.tensor([1])), "must share a vocabulary"),
        ((torch.ones(2, 3) / 3, None, torch.tensor([3])), r"draft_tokens must lie in \[0, 3\)"),
        ((torch.ones(2, 3) / 3, torch.eye(3)[:1], torch.tensor([1])), "token 1 has probability 0"),
    ],
)
def test_verification_names_what_does_not_fit(arguments, message):
    with pytest.raises(ParameterError, match=message):
        verify.verify_chain(*arguments, torch.Generator())
    with pytest.raises(ParameterError, match=message):
        verify.verify_tree(*arguments, torch.arange(-1, len(arguments[2]) - 1), torch.Generator())


def test_verification_of_a_draft_equal_to_its_target_accepts_everything():
    p = torch.softmax(torch.randn(6, 30, generator=torch.Generator().manual_seed(0)), -1)
    tokens = p[:-1].argmax(-1)
    for seed in range(20):
        found = verify.verify_chain(p, p[:-1], tokens, torch.Generator().manual_seed(seed))
        assert found.accepted == [0, 1, 2, 3, 4]
    assert torch.equal(verify.residual(p[0], p[0], 3), p[0]), "nothing is left but rounding"
