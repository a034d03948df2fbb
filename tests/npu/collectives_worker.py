"""One rank of test_collectives.py: python collectives_worker.py RANK RANKS FOLDER.

Each rank has a card. What is compared is compared with one process that has all tokens, on the CPU
in float64; a rank that finds no fault writes a file.
"""

import copy
import os
import sys
from pathlib import Path

import aten_on_cpu
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import moge_ops
from moge_ops import nn
from moge_ops.distributed import ExpertParallel, Plan, load_balance_loss, parallelize, state_dict
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.testing import assert_matches

H, F, E, G = 24, 16, 32, 8


def whole(x: Tensor) -> Tensor:
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach().cpu()


def check_collectives(rank: int, ranks: int) -> None:
    """Each one by its definition, at sizes of several rounds and of none."""
    card = f"npu:{rank}"
    for n in (0, 1, 1000, 700_000):
        own = torch.arange(n, dtype=torch.float32) + rank
        all_of_them = [torch.arange(n, dtype=torch.float32) + r for r in range(ranks)]
        x = own.to(card)
        dist.all_reduce(x)
        assert torch.equal(x.cpu(), sum(all_of_them)), "all_reduce"
        signed = torch.tensor([5 - 9 * r for r in range(ranks)], dtype=torch.int32)
        for op, want in (
            (dist.ReduceOp.MAX, signed.max()),
            (dist.ReduceOp.MIN, signed.min()),
            (dist.ReduceOp.PRODUCT, signed.prod().int()),
        ):
            dist.all_reduce(y := signed[rank : rank + 1].to(card), op)
            assert y.item() == want, op
        gathered = torch.empty(ranks * n, device=card)
        dist.all_gather_into_tensor(gathered, own.to(card))
        assert torch.equal(gathered.cpu(), torch.cat(all_of_them)), "all_gather"
        scattered = torch.empty(n, dtype=torch.bfloat16, device=card)
        dist.reduce_scatter_tensor(scattered, torch.ones(ranks * n, device=card).bfloat16())
        assert torch.equal(scattered.cpu(), torch.full((n,), ranks).bfloat16()), "reduce_scatter"
        dist.broadcast(z := own.to(card), src=ranks - 1)
        assert torch.equal(z.cpu(), all_of_them[-1]), "broadcast"
        swapped = torch.empty(ranks * n, device=card)
        dist.all_to_all_single(swapped, torch.cat([own + 10 * r for r in range(ranks)]).to(card))
        assert torch.equal(swapped.cpu(), torch.cat([x + 10 * rank for x in all_of_them]))
    counts = [r + 1 for r in range(ranks)]  # of what this rank gets from each, and gives to all
    got = torch.empty(sum(counts), device=card)
    given = torch.full((ranks * (rank + 1),), float(rank), device=card)
    dist.all_to_all_single(got, given, counts, [rank + 1] * ranks)
    assert got.cpu().tolist() == [float(r) for r in range(ranks) for _ in range(r + 1)]
    dist.barrier()


def check_different_collectives(rank: int, ranks: int) -> None:
    """Ranks that are at different ones learn it; the last check, as their streams have failed."""
    x = torch.zeros(8, device=f"npu:{rank}")
    with pytest.raises(RuntimeError, match="rank 0 is at HcclBroadcast of 32 bytes"):  # noqa: PT012
        dist.all_reduce(x) if rank else dist.broadcast(x, src=0)
        torch.npu.synchronize()


def moge(**options: int) -> nn.MoGE:
    torch.manual_seed(1)
    return nn.MoGE(H, F, E, G, k=2, shared_size=16, **options)


def check_expert_parallel(rank: int, ranks: int) -> None:
    """Unequal numbers of tokens, groups over one dimension of a mesh and F over another, votes."""
    torch.manual_seed(2)
    counts = [(3 * r) % 8 for r in range(ranks)]
    xs, d_ys = ([torch.randn(n, H) for n in counts] for _ in range(2))
    one = init_device_mesh("npu", (ranks,), mesh_dim_names=("ep",))
    two = init_device_mesh("npu", (2, ranks // 2), mesh_dim_names=("a", "b"))
    for what, mesh, plan, options in (
        ("groups", one, Plan(), {}),
        ("groups and width", two, Plan(groups="a", width="b"), {}),
        ("votes", one, Plan(), {"num_voted": 2}),
    ):
        parallel = ExpertParallel(moge(**options).npu(), mesh, plan, max_tokens=7)
        x = xs[rank].npu().requires_grad_()
        y = parallel(x)
        y.backward(d_ys[rank].npu())
        oracle = moge(**options).double()
        x64 = [x.double().requires_grad_() for x in xs]
        y64 = oracle(torch.cat(x64))
        y64.backward(torch.cat(d_ys).double())
        assert_matches(y.cpu(), y64.split(counts)[rank], f"{what}: y")
        assert_matches(x.grad.cpu(), x64[rank].grad, f"{what}: d_x", slack=3.0)
        for name, p in oracle.named_parameters():
            got = whole(parallel.get_parameter(name).grad)
            assert_matches(got.reshape(p.shape), p.grad, f"{what}: d_{name}", slack=20.0)


def check_loss(rank: int, ranks: int) -> None:
    torch.manual_seed(3)
    logits, ids = torch.randn(ranks, 6, E), torch.randint(0, E, (ranks, 6, 4), dtype=torch.int32)
    own = logits[rank].npu().requires_grad_()
    part = load_balance_loss(own, ids[rank].npu(), dist.group.WORLD)
    part.backward()
    dist.all_reduce(total := part.detach().clone())
    all64 = logits.flatten(0, 1).double().requires_grad_()
    want = moge_ops.load_balance_loss(all64, ids.flatten(0, 1))
    (d_logits,) = torch.autograd.grad(want, all64)
    assert_matches(total.cpu(), want.detach(), "loss")
    assert_matches(own.grad.cpu(), d_logits.view_as(logits)[rank], "d_logits", slack=3.0)


def check_model(rank: int, ranks: int) -> None:
    """The model with attention in parallel, its loss and its gradients."""
    config = PanguMoEConfig(
        vocab_size=31,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_experts=16,
        num_experts_per_tok=8,
        num_groups=8,
        moe_intermediate_size=12,
        shared_expert_intermediate_size=16,
        eos_token_id=None,
    )
    torch.manual_seed(4)
    one = PanguMoEForCausalLM(config)
    oracle = copy.deepcopy(one).double()
    ids = torch.randint(0, 31, (2, 6))
    mesh = init_device_mesh("npu", (ranks,), mesh_dim_names=("ep",))
    model = parallelize(one.npu(), mesh, Plan(heads="ep"))
    loss, want = model.loss(ids.npu()), oracle.loss(ids)
    assert_matches(loss.detach().cpu(), want.detach(), "loss")
    loss.backward()
    want.backward()
    with torch.no_grad():
        for p in (*model.parameters(), *oracle.parameters()):
            p.copy_(p.grad)
    got = state_dict(model)
    for name, p in state_dict(oracle).items():
        assert_matches(whole(got[name]).reshape(p.shape), p, f"d_{name}", slack=50.0)


def main(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.npu.set_device(rank)
    kept = aten_on_cpu.register()
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("hccl", store=store, rank=rank, world_size=ranks)
    for check in (check_collectives, check_expert_parallel, check_loss, check_model):
        check(rank, ranks)
        (folder / f"{check.__name__}-{rank}").touch()
    if (folder / "different").exists():
        check_different_collectives(rank, ranks)
        (folder / f"check_different_collectives-{rank}").touch()
        os._exit(0)  # past a group whose stream has failed
    dist.destroy_process_group()
    del kept


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
