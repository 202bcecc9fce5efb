"""What compressors and adapters return are ordinary modules: FSDP shards them and accelerate takes them as they are."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from porism.kinds import models
from porism.registry import load, papers

METHODS = sorted(key for key, paper in papers().items() if not {"compressor", "adapter"}.isdisjoint(paper.kinds))


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """A mesh of this one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def made(key: str) -> tuple[nn.Module, Tensor]:
    """A paper's result on the example model of conformance, and inputs of that."""
    return models.made(load(key)), torch.linspace(-1, 1, 4 * models.WIDTHS[0]).view(4, -1)


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Of the sum of squared outputs, by name."""
    model(inputs).square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: getattr(gradient, "full_tensor", lambda g=gradient: g)() for name, gradient in found.items()}


@pytest.mark.parametrize("key", METHODS)
def test_fsdp_gives_the_same_outputs_and_gradients(key: str, mesh: DeviceMesh) -> None:
    model, inputs = made(key)
    sharded = copy.deepcopy(model)
    for child in sharded.children():
        for layer in child if isinstance(child, nn.ModuleList) else [child]:  # a list is no module that is called
            if list(layer.parameters()):
                fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    assert torch.equal(sharded(inputs), model(inputs))
    expected, found = gradients(model, inputs), gradients(sharded, inputs)
    assert expected and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=f"gradient of {name}")


@pytest.mark.parametrize("key", METHODS)
def test_accelerate_offloads_it_to_the_disk(key: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, inputs = made(key)
    offloaded = copy.deepcopy(model)
    accelerate.disk_offload(offloaded, str(tmp_path), execution_device=torch.device("cpu"), offload_buffers=True)
    assert {p.device.type for p in offloaded.parameters()} == {"meta"}
    assert torch.equal(offloaded(inputs), model(inputs))
