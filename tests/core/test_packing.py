"""Codes of any width: packed without a gap, and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porism.errors import ParameterError
from porism.packing import pack, packed_bytes, unpack


@given(st.integers(1, 16), st.data())
def test_what_is_packed_comes_back_and_takes_no_more_than_its_bits(bits: int, data: st.DataObject) -> None:
    codes = torch.tensor(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70)), dtype=torch.int64)
    packed = pack(codes, bits)
    assert packed.numel() == packed_bytes(len(codes), bits) == -(-len(codes) * bits // 8)
    assert torch.equal(unpack(packed, bits, len(codes)).long(), codes)


@pytest.mark.parametrize("bits", [2, 3, 8, 12])
def test_chunks_join_without_a_seam(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(0, 2**bits, (1003,), generator=torch.Generator().manual_seed(0))
    whole = pack(codes, bits)
    monkeypatch.setattr("porism.packing._CHUNK", 16)
    assert torch.equal(pack(codes, bits), whole)
    assert torch.equal(unpack(whole, bits, 1003).long(), codes)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (torch.tensor([4]), 2, r"codes must be in \[0, 4\), got 4 to 4"),
        (torch.tensor([-1]), 2, r"codes must be in \[0, 4\)"),
        (torch.tensor([1.0]), 2, "codes must be integers"),
        (torch.tensor([True]), 2, "codes must be integers"),
        (torch.tensor([1]), 0, r"bits must be int in \[1, 16\]"),
        (torch.tensor([1]), 17, r"bits must be int in \[1, 16\]"),
    ],
)
def test_what_does_not_fit_is_refused(codes: torch.Tensor, bits: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        pack(codes, bits)


def test_a_packed_tensor_of_another_length_is_refused() -> None:
    with pytest.raises(ParameterError, match="3 bytes for 10 codes of 2 bits"):
        unpack(torch.zeros(4, dtype=torch.uint8), 2, 10)
    with pytest.raises(ParameterError, match="must be uint8"):
        unpack(torch.zeros(3), 2, 10)
