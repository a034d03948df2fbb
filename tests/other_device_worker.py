"""The torch path on a device without kernels of its own, which this process simulates.

The device is PyTorch's `privateuseone`, whose tensors have no memory: each has its values in a CPU
tensor, with which every operator of aten runs. One that gets tensors of both devices
raises, as on a real device, and one with which the host reads values is noted. It prints, for each
call, its largest error against the CPU and the number of such reads, forward and backward.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import moge_ops

_setup_privateuseone_for_python_backend("there")
aten = torch.ops.aten
# kernels of these would compute strides, and the tensors of this device have none of their own
OWN = """arange arange.start arange.start_step alias detach expand permute select.int slice.Tensor
    split.Tensor squeeze.dim t transpose.int unbind.int unsqueeze view.dtype"""
reads: list[str] = []
# by the address of a storage, which copies of the handle share; what is freed is overwritten
values: dict[int, Tensor] = {}


class There(Tensor):
    """As a subclass, which may have no memory of its own."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def is_there(x: Any) -> bool:
    return isinstance(x, Tensor) and x.device.type == "there"


def there(here: Tensor) -> Tensor:
    x: Tensor = torch._C._acc.create_empty_tensor(here.shape, here.dtype)
    x.__class__ = There
    values[x.untyped_storage()._cdata] = here
    return x


def here(x: Any) -> Any:
    return values[x.untyped_storage()._cdata] if is_there(x) else x


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    # numbers in a tensor's place arrive as numbers, which overloads with `out` refuse
    args = tuple(
        torch.tensor(x) if isinstance(x, (int, float)) and str(a.type) == "Tensor" else x
        for a, x in zip(op._schema.arguments, args, strict=False)
    )
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if op is aten._copy_from.default:  # the one way from a device to the other
        source, target = args[:2]
        if is_there(source) and not is_there(target):
            reads.append("copy")
        here(target).copy_(here(source))
        return target
    if any(x.ndim and not is_there(x) for x in tensors):
        raise RuntimeError(f"{op} got tensors on two devices")
    if op is aten._local_scalar_dense.default:
        reads.append("item")
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    known = {id(here(x)): x for x in tensors if is_there(x)}
    out = op(*tree_map(here, args), **tree_map(here, kwargs))

    def back(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else there(x)

    return tree_map(back, out)


fallback, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
fallback.fallback(run, "PrivateUse1")
for name in OWN.split():
    packet, _, overload = name.partition(".")
    op = getattr(getattr(aten, packet), overload or "default")
    own.impl(name, functools.partial(run, op), "PrivateUse1")


def calls() -> Iterator[tuple[str, Callable[..., Tensor], Tensor, list[Tensor]]]:
    """Name, a function of ids and of float tensors, and those."""
    ids = torch.randint(-8, 60, (20, 2), dtype=torch.int32)  # slots are dropped
    for T in (1, 12, 300):  # experts one by one, in batches with and without padding
        for options in ({}, {"shared_size": 3, "num_voted": 1, "weight_on": "activation"}):
            moge = moge_ops.nn.MoGE(8, 4, 16, 4, **options)
            parameters = dict(moge.named_parameters())

            def layer(
                _: Tensor, x: Tensor, *p: Tensor, moge: Any = moge, names: Any = tuple(parameters)
            ) -> Tensor:
                named = dict(zip(names, p, strict=True))
                return torch.func.functional_call(moge, named, (x,))  # type: ignore[no-any-return]

            floats = [torch.randn(T, 8), *parameters.values()]
            yield f"layer {T} {len(options)}", layer, ids, floats
    far = torch.tensor([[0, 50], [0, 51]])
    # experts as a slice, copied into a batch, and one by one
    for H, chosen in ((8, ids), (90, far), (600, ids)):
        shapes = (len(chosen), H), (64, 2 * H, H), (64, H, H), chosen.shape
        weights = [torch.randn(shape) for shape in shapes]
        yield (
            f"experts {H}",
            lambda ids, *a: moge_ops.grouped_mlp(*a, moge_ops.route(ids, 64)),
            chosen,
            weights,
        )
    yield (
        "steps",
        lambda ids, x, w, s: moge_ops.unpermute(
            moge_ops.grouped_gemm(moge_ops.permute(x, r := moge_ops.route(ids, 64)), w, r.offsets),
            r,
            s,
        ),
        ids,
        [torch.randn(20, 8), torch.randn(64, 8, 8), torch.randn(20, 2)],
    )
    yield (
        "moved",
        lambda ids, x, s: moge_ops.unpermute(
            moge_ops.swiglu(moge_ops.permute(x, r := moge_ops.route(ids, 64))), r, s
        ),
        ids,
        [torch.randn(20, 8), torch.randn(20, 2)],
    )
    yield "loss", lambda ids, a: moge_ops.load_balance_loss(a, ids), ids, [torch.randn(20, 64)]


def main() -> None:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    for name, f, ids, tensors in calls():
        leaves = [x.detach().clone().requires_grad_() for x in tensors]
        want = f(ids, *leaves)
        wanted = [want, *torch.autograd.grad(want.square().sum(), leaves)]
        remote = [there(x.detach().clone()).requires_grad_() for x in tensors]
        reads.clear()
        got = f(there(ids), *remote)
        forward = len(reads)
        gradients = torch.autograd.grad(got.square().sum(), remote)
        assert got.device.type == "there"
        error = max(
            float((here(a) - b).detach().abs().max() / b.detach().abs().max())
            for a, b in zip((got, *gradients), wanted, strict=True)
        )
        print(f"{name}\t{error}\t{forward}\t{len(reads) - forward}")  # noqa: T201


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # torch's thread for such a device may outlive the interpreter, which then aborts
