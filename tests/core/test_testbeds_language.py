"""Testbeds: text that every Python has, as codes of one alphabet."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porism.errors import ParameterError, PorismError
from porism.testbeds import blocks, corpus, language, missing_vowels, windows
from porism.testbeds.language import ALPHABET, MASK, decode, documents, encode, plain


def paragraphs(tokens: np.ndarray) -> set[str]:
    return {part.strip() for part in re.split(r"\n\s*\n", decode(tokens)) if part.strip()}


def test_importing_the_testbeds_loads_neither_torch_nor_transformers():
    code = "import sys, porism.testbeds; print({'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "set()"


@pytest.mark.parametrize("domain", ["manual", "source"])
def test_texts_are_long_and_written_in_the_alphabet(domain):
    whole = "".join(documents(domain).values())
    assert len(whole) > 250_000
    assert set(whole) <= set(ALPHABET)
    assert len(ALPHABET) == len(set(ALPHABET)) == 96


def test_the_manual_is_english_and_the_source_is_python():
    assert language.text().count(" the ") > 2000
    assert language.stdlib_source().count("\n    def ") > 500


@pytest.mark.parametrize("domain", ["manual", "source"])
def test_no_paragraph_is_there_twice(domain):
    found = [part.strip() for text in documents(domain).values() for part in re.split(r"\n\s*\n", text)]
    assert len(found) == len(set(found))


def test_no_paragraph_of_the_reference_is_lost():
    from pydoc_data.topics import topics

    kept = {part.strip() for text in documents("manual").values() for part in re.split(r"\n\s*\n", text)}
    theirs = {part.strip() for text in topics.values() for part in re.split(r"\n\s*\n", plain(text)) if part.strip()}
    assert theirs == kept


@given(st.text())
def test_any_text_can_be_encoded(text):
    codes = encode(text)
    assert codes.dtype == np.int64
    assert decode(codes) == plain(text)
    assert plain(plain(text)) == plain(text)


@given(st.text(alphabet=ALPHABET))
def test_text_in_the_alphabet_is_kept(text):
    assert decode(encode(text)) == text


@pytest.mark.parametrize("domain", ["manual", "source"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_of_a_corpus_share_no_paragraph_and_make_up_the_whole(domain, seed):
    train, validation, test, alphabet = corpus(np.random.default_rng(seed), domain=domain, validation=0.15, test=0.15)
    parts = [paragraphs(part) for part in (train, validation, test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) == {p for text in documents(domain).values() for p in paragraphs(encode(text))}
    total = sum(map(len, documents(domain).values()))
    assert 0.09 * total < len(test) < 0.16 * total
    assert 0.05 * total < len(validation) < 0.16 * total
    assert alphabet == ALPHABET


def test_a_corpus_depends_on_the_generator_only():
    first, again, other = (corpus(np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, again.train)
    assert not np.array_equal(first.test, other.test)


def test_a_share_of_zero_is_an_empty_part():
    train, validation, test, _ = corpus(np.random.default_rng(0), validation=0, test=0)
    assert len(validation) == len(test) == 0
    assert len(train) > 250_000


@pytest.mark.parametrize(
    "arguments", [{"test": 1.0}, {"validation": -0.1}, {"validation": 0.5, "test": 0.5}, {"test": float("nan")}]
)
def test_shares_out_of_range_are_refused(arguments):
    with pytest.raises(ParameterError, match="validation and test must be"):
        corpus(np.random.default_rng(0), **arguments)


def test_an_unknown_domain_is_refused():
    with pytest.raises(ParameterError, match="'manual' or 'source'"):
        corpus(np.random.default_rng(0), domain="latin")


def test_a_python_without_its_source_is_told_so(monkeypatch):
    documents.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PorismError, match="no source of argparse"):
        documents("source")


def test_a_python_without_its_reference_is_told_so(monkeypatch):
    documents.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(PorismError, match="lacks pydoc_data"):
        documents("manual")


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32))
def test_windows_are_pieces_of_the_text(size, length, batch, seed):
    rng, tokens = np.random.default_rng(seed), np.arange(size)
    if length > size:
        with pytest.raises(ParameterError, match="n >= length"):
            windows(rng, tokens, batch=batch, length=length)
        return
    found = windows(rng, tokens, batch=batch, length=length)
    assert found.shape == (batch, length)
    assert 0 <= found.min() <= found.max() < size
    assert (np.diff(found, axis=1) == 1).all()


def test_windows_start_at_every_place():
    found = windows(np.random.default_rng(0), np.arange(10), batch=300, length=4)
    assert set(found[:, 0]) == set(range(7))


def test_windows_are_the_callers_own():
    tokens = np.arange(10)
    windows(np.random.default_rng(0), tokens, batch=2, length=3)[:] = -1
    blocks(tokens, 3)[:] = -1
    np.testing.assert_array_equal(tokens, np.arange(10))


@given(st.integers(1, 40), st.integers(1, 12))
def test_blocks_are_the_text_up_to_what_is_left(size, length):
    if length <= size:
        np.testing.assert_array_equal(blocks(np.arange(size), length).ravel(), np.arange(size // length * length))


@given(st.text(alphabet="aeiou bcd\n", min_size=2, max_size=60), st.integers(2, 9))
def test_missing_vowels_put_back_give_the_text(text, length):
    tokens = encode(text)
    inside = [
        i for i, c in enumerate(text) if c in "aeiou" and i >= length // 2 and i - length // 2 + length <= len(text)
    ]
    if not inside:
        with pytest.raises(ParameterError):
            missing_vowels(tokens, length=length)
        return
    x, y = missing_vowels(tokens, length=length)
    assert (x == MASK).sum(axis=1).tolist() == [1] * len(inside)
    x[:, length // 2] = encode("aeiou")[y]
    np.testing.assert_array_equal(x, [tokens[i - length // 2 :][:length] for i in inside])


@pytest.mark.parametrize("call", [lambda t: windows(np.random.default_rng(0), t), blocks, missing_vowels])
@pytest.mark.parametrize("tokens", [np.zeros((300, 2), int), np.zeros(0, int), np.zeros(5, int)], ids=str)
def test_what_is_no_long_row_is_refused(call, tokens):
    with pytest.raises(ParameterError):
        call(tokens)
