"""ATen on `npu` tensors where there is no CANN: torch's CPU kernels over the same memory.

torch_npu asks CANN's operator libraries, which the host runtime has not. Under this fallback, a
model runs on `npu` tensors all the same, so that what is tested are its devices, streams and
memory, and kernels of one's own; what ran here says nothing about CANN's operators.
"""

import atexit
import ctypes
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

ran: Counter[str] = Counter()
"""How often each operator of ATen ran on the CPU kernels."""

counting = threading.Lock()

# torch_npu's own, which need the runtime alone: allocation, views, copies between host and card
KEPT = {
    *("_copy_from_and_resize", "_lazy_clone", "_local_scalar_dense", "_pin_memory"),
    *("_reshape_alias", "as_strided", "as_strided_", "copy_memory_", "empty.memory_format"),
    *("empty_like", "empty_strided", "empty_with_format", "empty_with_swapped_memory"),
    *("get_npu_format", "get_storage_size", "is_pinned", "is_set_to", "record_stream", "resize_"),
    *("resize_as_", "set_", "set_.source_Storage", "set_.source_Storage_storage_offset"),
    *("set_.source_Tensor", "unsafe_empty_with_format", "view"),
}


def told() -> str:
    """What ran on the CPU's kernels, in a line."""
    each = ", ".join(f"{name.removeprefix('aten::')} {n}" for name, n in ran.most_common())
    return f"{len(ran)} operators of ATen ran on the CPU's kernels, {ran.total()} calls: {each}"


def on_npu(x: Any) -> bool:
    """Whether ``x`` is a tensor of a card."""
    return isinstance(x, Tensor) and x.device.type == "npu"


def shared(x: Tensor) -> Tensor:
    """A CPU tensor of the same memory."""
    storage = x.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    flat = torch.frombuffer(memory, dtype=torch.uint8)
    # whole elements only: a storage may have a few bytes more
    flat = flat[: len(flat) // x.element_size() * x.element_size()]
    view = flat.view(x.dtype).as_strided(x.shape, x.stride(), x.storage_offset())
    return view.conj() if x.is_conj() else view


def wait(*tensors: Any) -> None:
    """Waits for the current stream of each tensor's card; for no other stream."""
    for device in {x.device for x in tensors if on_npu(x)}:
        torch.npu.current_stream(device).synchronize()


def moved(x: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor's elements on a card."""
    there = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
    if x.numel():
        wait(there)  # memory that a stream still uses may come back from the allocator
        shared(there).copy_(x)
    return there


def on_cpu(op: Any) -> Callable[..., Any]:
    """A kernel for `npu` tensors that calls an operator with the CPU tensors of their memory."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        leaves: list[Tensor] = []
        tree_map(lambda x: leaves.append(x) if on_npu(x) else None, (args, kwargs))
        places = {x.device for x in leaves if x.ndim}
        if len(places) > 1:
            raise RuntimeError(f"{op} got tensors of {' and '.join(sorted(map(str, places)))}")
        device = leaves[0].device if leaves else torch.device("npu", torch.npu.current_device())
        if any(a.name == "device" for a in op._schema.arguments):
            asked = torch.device(kwargs.get("device") or device)
            device = asked if asked.index is not None else torch.device(asked.type, device.index)
            kwargs["device"] = torch.device("cpu")
        wait(*leaves)
        with counting:
            ran[op.name()] += 1
        here = {id(x): shared(x) for x in leaves}
        given = {id(here[id(x)]): x for x in leaves}
        bases = {here[id(x)].untyped_storage().data_ptr(): x for x in leaves if x.numel()}

        def there(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if id(x) in given:
                return given[id(x)]
            base = bases.get(x.untyped_storage().data_ptr())
            if base is not None and base.dtype == x.dtype:  # a view
                return base.as_strided(x.shape, x.stride(), x.storage_offset())
            return moved(x, device)

        args, kwargs = tree_map(lambda x: here[id(x)] if on_npu(x) else x, (args, kwargs))
        result = op(*args, **kwargs)
        for x in leaves:
            computed = here[id(x)]
            if computed.shape != x.shape:  # `out`, which the operator has resized
                x.resize_(computed.shape)
                shared(x).copy_(computed)
        return tree_map(there, result)

    return kernel


def to_copy(x: Tensor, **kwargs: Any) -> Tensor:
    """``aten::_to_copy`` by ``copy_``, as PyTorch has it."""
    non_blocking = kwargs.pop("non_blocking", False)
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    memory_format = kwargs.pop("memory_format", torch.preserve_format)
    return torch.empty_like(x, memory_format=memory_format, **kwargs).copy_(x, non_blocking)


def register() -> torch.library.Library:
    """Takes the place of every kernel of torch_npu for ATen that would need CANN's operators.

    Returns:
        What holds the registrations, for as long as it lives. At its end, the process says what
        ran on the CPU.
    """
    atexit.register(lambda: sys.stderr.write(f"npu_host: {told()}\n" if ran else ""))
    library = torch.library.Library("aten", "IMPL")
    dispatch = torch._C
    keyed = {
        key: set(dispatch._dispatch_get_registrations_for_dispatch_key(key))
        for key in ("PrivateUse1", "AutogradPrivateUse1")
    }
    copy = torch.library.get_kernel("aten::copy_", "PrivateUse1")
    copy_on_cpu = on_cpu(torch.ops.aten.copy_.default)

    def copy_(keys: Any, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if target.device == source.device:
            return copy_on_cpu(target, source, non_blocking)  # type: ignore[no-any-return]
        # torch_npu copies contiguous tensors of one dtype by the runtime alone
        source = source.to(target.dtype).expand(target.shape).contiguous()
        there = target if target.is_contiguous() else torch.empty_like(source, device=target.device)
        if not non_blocking:
            wait(target, source)  # without the GIL, which torch_npu would keep from streams
        copy.call_boxed(keys, there, source, non_blocking)
        return target if there is target else target.copy_(there)

    own: dict[str, Callable[..., Any]] = {"_to_copy": to_copy}
    for full in sorted(set().union(*keyed.values())):
        space, _, name = full.partition("::")
        packet, _, overload = name.partition(".")
        if space != "aten" or name in KEPT or name == "copy_":
            continue
        try:
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        except AttributeError:  # torch_npu's own operators have names of ATen's, too
            continue
        if dispatch._dispatch_has_kernel_for_dispatch_key(full, "CompositeImplicitAutograd"):
            for key in keyed:
                library.impl(name, op.decompose, key)
        elif full in keyed["PrivateUse1"]:
            library.impl(name, own.get(name) or on_cpu(op), "PrivateUse1")
    library.impl("copy_", copy_, "PrivateUse1", with_keyset=True)
    return library
