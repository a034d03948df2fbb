"""Released checkpoint folders, straight into the shards of a parallel model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from moge_ops.distributed._mesh import Plan
from moge_ops.distributed.pangu import parallelize, state_dict
from moge_ops.models import checkpoint
from moge_ops.models.pangu_moe import PanguMoEConfig, PanguMoEForCausalLM


def _released(config: PanguMoEConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Released name, name in :func:`state_dict`, and index of the part of it, for every tensor."""
    yield "model.embed_tokens.weight", "embed.weight", ()
    for i in range(config.num_hidden_layers):
        there, here = f"model.layers.{i}", f"layers.{i}"
        yield f"{there}.input_layernorm.weight", f"{here}.attention_norm.weight", ()
        yield f"{there}.post_attention_layernorm.weight", f"{here}.moge_norm.weight", ()
        for kind in ("weight", "bias"):
            for name in "qkv":
                at = f"{there}.self_attn.{name}_proj.{kind}"
                yield at, f"{here}.attention.qkv.{name}_{kind}", ()
            yield f"{there}.self_attn.o_proj.{kind}", f"{here}.attention.o.{kind}", ()
        yield f"{there}.mlp.gate.weight", f"{here}.moge.gate", ()
        yield f"{there}.mlp.router_scale", f"{here}.moge.router_scale", ()
        experts = [(f"experts.{e}", "w", (e,)) for e in range(config.num_experts)]
        shared = [("shared_expert", "shared", ())] if config.shared_expert_intermediate_size else []
        for name, kind, index in (*experts, *shared):
            at = f"{there}.mlp.{name}"
            yield f"{at}.gate_proj.weight", f"{here}.moge.{kind}_gate_up", (*index, 0)
            yield f"{at}.up_proj.weight", f"{here}.moge.{kind}_gate_up", (*index, 1)
            yield f"{at}.down_proj.weight", f"{here}.moge.{kind}_down", index
    yield "model.norm.weight", "norm.weight", ()
    yield "lm_head.weight", "lm_head.weight", ()


def _first(parameter: DTensor) -> list[int]:
    """Global index of the first element of this rank's part, even shards only."""
    part, mesh = [0] * parameter.ndim, parameter.device_mesh
    for dim, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            part[placement.dim] = part[placement.dim] * mesh.size(dim) + mesh.get_local_rank(dim)
    local = parameter.to_local().shape
    return [i * n for i, n in zip(part, local, strict=True)]


def from_pretrained(
    folder: str | Path,
    mesh: DeviceMesh,
    plan: Plan,
    *,
    dtype: torch.dtype | None = None,
    max_tokens: int | None = None,
) -> PanguMoEForCausalLM:
    """Loads a released folder into a parallel model.

    Every rank takes the memory of its own parts and reads these from the files, and no others:
    of a tensor that is split, its slice.

    Args:
        folder, dtype: As in :func:`moge_ops.models.checkpoint.from_pretrained`; the device is the
            mesh's.
        mesh, plan, max_tokens: As in :func:`moge_ops.distributed.parallelize`.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: As these two functions, before any communication.
    """
    model, shards = checkpoint.checked(folder, dtype)
    model = parallelize(model, mesh, plan, max_tokens=max_tokens)
    model.to_empty(device=mesh.device_type)
    state = state_dict(model)
    parts = {name: (state[whole], index) for name, whole, index in _released(model.config)}
    for path in shards:
        with checkpoint.opened(path) as shard:
            for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                whole, index = parts[name]
                _read(shard.get_slice(name), whole, index)
    return model.eval()


def _read(stored: Any, whole: Tensor, index: tuple[int, ...]) -> None:
    """Copies what this rank has of ``whole[index]`` out of a file."""
    assert isinstance(whole, DTensor)
    first, part = _first(whole), whole.to_local()
    for i in index:  # an expert, or a half of a SwiGLU
        if not 0 <= i - first[0] < part.shape[0]:
            return
        part, first = part[i - first[0]], first[1:]
    wanted = tuple(slice(i, i + n) for i, n in zip(first, part.shape, strict=True))
    # router_scale is stored with a dimension of size 1 before its own
    leading = (slice(None),) * (len(stored.get_shape()) - part.ndim)
    part.copy_(stored[(*leading, *wanted)].view(part.shape))
