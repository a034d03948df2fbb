"""Released checkpoint folders, straight into the shards of a parallel model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from moge_ops.distributed._mesh import Plan
from moge_ops.distributed.pangu import parallelize
from moge_ops.models import checkpoint
from moge_ops.models.layout import Index, released_names, state_dict
from moge_ops.models.pangu_moe import PanguMoEForCausalLM


def _first(parameter: DTensor) -> list[int]:
    """Global index of the first element of this rank's part; shards must be even."""
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

    Every rank allocates its own parts only, and reads only these from the files: of a tensor that
    is split, its slice. Heads that predict further tokens are not read.

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
    parts = {name: (state[whole], index) for name, whole, index in released_names(model.config)}
    for path in shards:
        with checkpoint.opened(path) as shard:
            for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                if name in parts:  # checked above; the model has no heads of further tokens
                    _read(shard.get_slice(name), *parts[name])
    return model.eval()


def _read(stored: Any, whole: Tensor, index: Index) -> None:
    """Copies this rank's elements of ``whole[index]`` out of a file, and reads no others."""
    assert isinstance(whole, DTensor)
    first, part = _first(whole), whole.to_local()
    wanted: list[slice] = []
    for i in index:  # an expert, a half of a SwiGLU
        if i is None:
            wanted.append(slice(None))
        elif 0 <= i - first[0] < part.shape[0]:
            part, first = part[i - first[0]], first[1:]
        else:
            return
    wanted += [slice(i, i + n) for i, n in zip(first, part.shape, strict=True)]
    part.copy_(stored[tuple(wanted)].view(part.shape))
