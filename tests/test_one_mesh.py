"""Data, expert, tensor and sequence parallelism, FSDP2 and offloading on one mesh of eight."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from moge_ops.distributed import Plan, optimizer_state_dict, parallelize, state_dict
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM

WORKER = Path(__file__).with_name("one_mesh_worker.py")
CHECKS = runpy.run_path(str(WORKER))["checks"]()
launch = runpy.run_path(str(WORKER.with_name("test_distributed.py")))["launch"]
worker = runpy.run_path(str(WORKER.with_name("distributed_worker.py")))
Results = list[dict[str, Any]]  # of every rank


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return launch(8, tmp_path_factory.mktemp("one_mesh"), WORKER)


@pytest.mark.slow
@pytest.mark.xdist_group("one_mesh")
@pytest.mark.parametrize("check", CHECKS)
def test_on_eight(check: str, results: Results) -> None:
    for rank, found in enumerate(results):
        assert check in found, f"rank {rank} did not come to this check, after {list(found)[-1:]}"
        assert "error" not in found[check], f"rank {rank}: {found[check]['error']}"


@pytest.mark.slow
@pytest.mark.xdist_group("one_mesh")
def test_a_rank_keeps_its_share(results: Results) -> None:
    """Experts are an eighth on each rank; attention a quarter; embedding, head and norms a half."""
    shares = [found["trains_as_one_process"]["found"] for found in results]
    assert all(0.125 < share["own share of the parameters"] < 0.25 for share in shares), shares


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """2 x 2 x 2, of which this process is one rank, and whose collectives send nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=8)
    yield init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("dp", "ep", "tp"))
    dist.destroy_process_group()


PLAN = Plan(groups="ep", width="tp", heads="tp")
ODD_GROUPS = {"num_experts": 9, "num_groups": 3, "num_experts_per_tok": 3}


@pytest.mark.parametrize(
    ("sizes", "names", "plan", "said"),
    [
        (ODD_GROUPS, "ep tp", PLAN, "'ep' must divide num_groups=3, got 2"),
        ({"moe_intermediate_size": 13}, "ep tp", PLAN, "'tp' must divide expert_size=13, got 2"),
        (
            {"shared_expert_intermediate_size": 18},
            "ep tp",
            PLAN,
            "the mesh must divide shared_size=18, got 4",
        ),
        (
            {"num_attention_heads": 1, "num_key_value_heads": 1},
            "ep tp",
            PLAN,
            "'tp' must divide num_attention_heads=1, got 2",
        ),
        (
            {"num_key_value_heads": 1},
            "ep tp",
            PLAN,
            "'tp' must divide num_key_value_heads=1, got 2",
        ),
        (
            {},
            "dp ep tp",
            PLAN,
            r"must be the mesh's dimensions \('dp', 'ep', 'tp'\), got \('ep', 'tp'\)",
        ),
        ({}, "ep tp", Plan("ep", "tp", "dp"), r"plan.heads must be one of .*, got 'dp'"),
        ({}, "ep tp", Plan("ep", "ep"), r"dimensions \('ep', 'tp'\), got \('ep', 'ep'\)"),
    ],
)
def test_plans_that_do_not_fit(
    sizes: dict[str, int], names: str, plan: Plan, said: str, mesh: DeviceMesh
) -> None:
    """Each is one sentence, before any communication and any change."""
    model = PanguMoEForCausalLM(PanguMoEConfig(**worker["SIZES"] | sizes))
    part = mesh if names == "dp ep tp" else mesh["ep", "tp"]
    with worker["Wire"]() as wire, pytest.raises(ValueError, match=said) as caught:
        parallelize(model, part, plan)
    assert not wire.bytes
    assert "\n" not in str(caught.value)
    assert not any(isinstance(p, DTensor) for p in model.parameters())


def test_optimizer_states_by_name() -> None:
    """One process: views of what AdamW keeps, with the names and shapes of the parameters."""
    model = worker["pangu"]()
    optimizer = torch.optim.AdamW(model.parameters())
    found, named = optimizer_state_dict(model, optimizer), state_dict(model)
    assert found.keys() == {f"{n}.{of}" for n in named for of in ("step", "exp_avg", "exp_avg_sq")}
    for name, x in found.items():
        assert x.shape in ((), named[name.rpartition(".")[0]].shape), name
    at, kept = "layers.1.attention.qkv.k_weight", optimizer.state
    found[f"{at}.exp_avg"].fill_(7.0)
    found[f"{at}.step"].fill_(5.0)
    qkv = kept[model.layers[1].attention.qkv.weight]
    whole = torch.zeros(64, 32)
    whole[32:48] = 7.0  # after 8 heads of 4, before 4 of the values
    assert torch.equal(qkv["exp_avg"], whole)
    assert qkv["step"] == 5.0
    found["layers.0.moge.w_gate_up.exp_avg_sq"][3, 1] = 2.0  # expert 3, the up half
    up = kept[model.layers[0].moge.w_gate_up]["exp_avg_sq"]
    assert up[3, 12:].eq(2.0).all()
    assert up.sum() == 2.0 * 12 * 32


def test_optimizer_states_before_the_first_step() -> None:
    """Gradients that are there already change nothing, and stay."""
    model = worker["pangu"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.loss(torch.arange(8).view(1, 8)).backward()
    before = [(p.clone(), p.grad.clone()) for p in model.parameters() if p.grad is not None]
    found = optimizer_state_dict(model, optimizer)
    assert found.keys() == {
        f"{n}.{of}" for n in state_dict(model) for of in ("step", "exp_avg", "exp_avg_sq")
    }
    assert all(x.eq(0).all() for name, x in found.items() if "exp_avg" in name)
    for (p, grad), now in zip(before, model.parameters(), strict=True):
        assert torch.equal(p, now)
        assert torch.equal(grad, now.grad)


def test_optimizer_states_while_the_parameters_are_whole(mesh: DeviceMesh) -> None:
    """As a forward pass without a backward one leaves the root's."""
    model = parallelize(worker["pangu"](), mesh["ep", "tp"], PLAN)
    fully_shard(model, mesh=mesh["dp"])
    optimizer = torch.optim.AdamW(model.parameters())
    model.unshard()
    found = optimizer_state_dict(model, optimizer)
    for name, p in state_dict(model).items():
        assert found[f"{name}.exp_avg"].placements == p.placements, name
        assert p.device_mesh.ndim == 3


def test_momentum_and_frozen_parameters() -> None:
    model = worker["pangu"]()
    model.embed.weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.loss(torch.arange(8).view(1, 8)).backward()
    optimizer.step()
    found = optimizer_state_dict(model, optimizer)
    assert found.keys() == {
        f"{name}.momentum_buffer" for name in state_dict(model) if name != "embed.weight"
    }


def test_optimizers_that_do_not_fit() -> None:
    model = worker["pangu"]()
    other = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3, 2))])
    with pytest.raises(ValueError, match=r"of module alone, got another, \[3, 2\]"):
        optimizer_state_dict(model, other)
    said = r"of the shape of their parameter embed.weight \[31, 32\], got \[31, 1\] for row_var"
    with pytest.raises(ValueError, match=said):
        optimizer_state_dict(model, torch.optim.Adafactor(model.parameters()))
    with pytest.raises(ValueError, match="its step without a closure, like AdamW, got LBFGS"):
        optimizer_state_dict(model, torch.optim.LBFGS(model.parameters()))
