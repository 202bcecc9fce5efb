"""The checks of decoders on real ones: processors of ours and of transformers, generate loops of ours and of theirs."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest

from porism.kinds import decoder
from porism.registry import load
from porism.testing import checks_for

PLUGIN = '''"""{name}. Reference: arXiv:2001.00001."""

import torch
import transformers
from porism import Paper, always
{imports}

PAPER = Paper(
    key="{key}", title="A decoder", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001", kinds=("decoder",),
    family="tests", needs=("hf",), method="{name}",
)

{body}

@always("Squares are not negative", where="Sec. 1")
def squares(rng) -> float:
    return rng.normal() ** 2
'''

TEMPNET = """
EXACT = {}


def example_options(rng):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        return {"tempnet": LogitTempNet(50, hidden=4)}
"""

TOP_P = """
EXACT = {}
TopPLogitsWarper = transformers.TopPLogitsWarper


def example_options(rng):
    return {"top_p": 0.8}
"""

DRAFT = """
def example_options(rng):
    from porism.kinds.decoder import tiny_random_llama

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        return {"draft": tiny_random_llama(rng), "do_sample": %s}
"""

GREEDY = '''
EXACT = {}


def decode(model, input_ids, *, max_new_tokens, attention_mask=None, eos_token_id=None):
    """Greedy text of the ``model`` after ``input_ids``, as its own method has it."""
    if not input_ids.numel():
        raise ValueError("input_ids must hold a prompt")
    options = {"max_new_tokens": max_new_tokens, "eos_token_id": eos_token_id, "do_sample": False}
    return model.generate(input_ids, attention_mask=attention_mask, **options)
'''

SPECULATIVE = "from porism_plugins.spec._engine import speculative_generate"
DECODERS = {
    "tempnet": ("TempNetLogitsProcessor",
                "from porism_plugins.tune.tempnet import LogitTempNet, TempNetLogitsProcessor", TEMPNET),
    "top_p": ("TopPLogitsWarper", "", TOP_P),
    "greedy": ("decode", "", GREEDY),
    "speculative": ("speculative_generate", SPECULATIVE, 'EXACT = {"do_sample": False}\n' + DRAFT % "False"),
    "speculative_sampling": ("speculative_generate", SPECULATIVE, 'EXACT = {"do_sample": False}\n' + DRAFT % "True"),
}  # fmt: skip
CHECKS = [name for name in vars(decoder) if name.startswith("check_")]
# What only one of both shapes is asked for.
OF_PROCESSORS = {"keeps_the_shape_of_scores", "leaves_a_token", "treats_rows_alone", "generates"}
OF_LOOPS = {
    "keeps_the_prompt", "obeys_max_new_tokens", "ends_at_eos", "respects_the_mask", "leaves_the_model_alone",
    "refuses_empty_prompts",
}  # fmt: skip


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("decoders")
    for key, (name, imports, body) in DECODERS.items():
        (folder / f"{key}.py").write_text(PLUGIN.format(key=key, name=name, imports=imports, body=body))
    return {key: folder / f"{key}.py" for key in DECODERS}


@pytest.mark.parametrize("key", DECODERS)
def test_a_real_decoder_passes_every_check_of_its_shape(papers: dict[str, Path], key: str) -> None:
    skipped = set()
    for check in checks_for(str(papers[key])):
        if check.name in CHECKS:
            try:
                check(str(papers[key]))
            except unittest.SkipTest:
                skipped.add(check.name.removeprefix("check_decoder_"))
    asked = OF_LOOPS if key in ("tempnet", "top_p") else OF_PROCESSORS
    assert skipped - {"on_cuda"} == asked


def test_a_file_that_does_not_say_that_it_is_exact_is_not_compared(papers: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(papers["greedy"].read_text().replace("EXACT = {}", "").replace('"greedy"', '"other"'))
    with pytest.raises(unittest.SkipTest, match="EXACT"):
        decoder.check_decoder_is_exact_where_it_says(load(str(other)))


def test_drawn_text_without_exact_is_not_asked_to_respect_the_mask(papers: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    source = papers["speculative_sampling"].read_text().replace('EXACT = {"do_sample": False}', "")
    other.write_text(source.replace('"speculative_sampling"', '"other"'))
    with pytest.raises(unittest.SkipTest, match="drawn"):
        decoder.check_decoder_respects_the_mask(load(str(other)))
