"""Which dimension of a mesh splits what, and parameters that are split over a mesh."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)


@dataclass(frozen=True)
class Plan:
    """Which dimension of a mesh splits what; the names are those of ``DeviceMesh.mesh_dim_names``.

    The paper's layout on eight devices (attention DP2 TP4, routed experts TP2 EP4, shared expert
    TP8) is ``Plan(groups="b", width="a", heads="b")`` on a mesh ``a=2, b=4``.

    Attributes:
        groups: Dimension that splits the groups of experts; a rank has whole groups.
        width: Dimension that splits F, inside every expert; a mesh of two dimensions needs it.
        heads: Dimension that splits the attention heads, in
            :func:`moge_ops.distributed.parallelize`. Along the mesh's other dimension attention is
            data-parallel: every rank has its own rows of the batch.
    """

    groups: str = "ep"
    width: str | None = None
    heads: str | None = None

    def check(self, mesh: DeviceMesh) -> None:
        """Raises ValueError unless the plan fits the mesh."""
        names = mesh.mesh_dim_names or ()
        for field, name in vars(self).items():
            if name is not None and name not in names:
                raise ValueError(f"plan.{field} must be one of the mesh's {names}, got {name!r}")
        split = tuple(name for name in (self.groups, self.width) if name is not None)
        if sorted(split) != sorted(names):
            raise ValueError(
                f"plan.groups and plan.width must be the mesh's dimensions {names}, got {split}"
            )
        check_ascending(mesh)

    def check_sizes(self, mesh: DeviceMesh, num_groups: int, expert_size: int, shared: int) -> None:
        """Raises ValueError, with both numbers, unless the ranks divide what they split."""
        check_divides(repr(self.groups), size(mesh, self.groups), "num_groups", num_groups)
        check_divides(repr(self.width), size(mesh, self.width), "expert_size", expert_size)
        check_divides("the mesh", mesh.size(), "shared_size", shared)


def size(mesh: DeviceMesh, name: str | None) -> int:
    """Number of ranks along a dimension; 1 for None."""
    return 1 if name is None else mesh[name].size()


def check_ascending(mesh: DeviceMesh) -> None:
    """Raises ValueError unless a mesh has its ranks in ascending order, as process groups have."""
    ranks = mesh.mesh.flatten().tolist()
    if ranks != sorted(ranks):
        raise ValueError(f"the mesh must have its ranks in ascending order, got {ranks}")


def check_divides(name: str, ranks: int, what: str, number: int) -> None:
    """Raises ValueError, with both numbers, unless the ranks divide the number."""
    if number % ranks:
        raise ValueError(f"the ranks of {name} must divide {what}={number}, got {ranks}")


def split(tensor: Tensor, mesh: DeviceMesh, **dims: int) -> nn.Parameter:
    """A DTensor parameter of which this rank keeps its part.

    Args:
        tensor: The whole tensor, the same on every rank.
        mesh: The mesh.
        dims: Mesh dimension -> the tensor dimension that it splits. Ranks along a mesh dimension
            that is not named have copies.
    """
    placements: list[Placement] = [
        Shard(dims[name]) if name in dims else Replicate() for name in mesh.mesh_dim_names or ()
    ]
    # without a source rank nothing is sent: every rank takes its part from its own tensor
    part = distribute_tensor(tensor.detach(), mesh, placements, src_data_rank=None)
    return nn.Parameter(part, tensor.requires_grad)


def own_part(parameter: Tensor, *, alike: str | None = None) -> Tensor:
    """This rank's part of a DTensor parameter, for work that no other rank does.

    Along a dimension where the parameter is replicated, each rank's gradient is then a partial sum.
    The backward pass adds these up once, so that ``grad`` is whole on every rank. FSDP and DDP take
    means over ranks, which do not change values that are equal on all ranks.

    Args:
        parameter: A DTensor.
        alike: Dimension of the mesh along which all ranks do the same work, so that their gradients
            are whole and equal already.
    """
    assert isinstance(parameter, DTensor)
    names = parameter.device_mesh.mesh_dim_names or ()
    partial = [
        Partial() if isinstance(placement, Replicate) and name != alike else placement
        for name, placement in zip(names, parameter.placements, strict=True)
    ]
    if partial != list(parameter.placements):
        # forward this changes nothing; backward it adds the partial sums up
        parameter = parameter.redistribute(placements=parameter.placements)
    part: Tensor = parameter.to_local(grad_placements=partial)
    return part


def flat_group(mesh: DeviceMesh) -> dist.ProcessGroup:
    """The process group of all ranks of a mesh, in the order of their coordinates."""
    return (mesh if mesh.ndim == 1 else mesh._flatten()).get_group()
