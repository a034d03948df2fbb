"""Expert parallelism for any choice of experts, with sizes that depend on the choice."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from moge_ops import _checks
from moge_ops.distributed._collectives import exchange, filled
from moge_ops.distributed._mesh import check_ascending, check_divides, own_part, split
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.permute import permute
from moge_ops.ops.route import route
from moge_ops.ops.unpermute import unpermute


class TopKExpertParallel(nn.Module):
    """Experts of a plain top-k model over the ranks of a mesh, by uneven all-to-all.

    For models that are not MoGE; it does what :class:`moge_ops.distributed.ExpertParallel` avoids.
    Every rank sends each routed row to the rank of its expert and gets the result back. The numbers
    of rows depend on the router, so every call exchanges them first and the host waits for them.
    The rank with the most rows sets the pace, and a call cannot be captured in a graph. Nothing is
    dropped except what :func:`moge_ops.route` drops.

    Gradients are those of the sum of the ranks' losses.

    Parameters, DTensors on ``mesh``, split over its ranks:
        w_gate_up: ``[E, 2F, H]``, gate half first; w_down: ``[E, H, F]``.

    Args:
        w_gate_up, w_down: The whole weights, the same on every rank, or on the meta device. A rank
            keeps its part.
        mesh: With one named dimension, whose ranks divide E.

    Raises:
        ValueError: The mesh has another dimension, or its ranks do not divide E; raised on every
            rank before any communication.
    """

    def __init__(self, w_gate_up: Tensor, w_down: Tensor, mesh: DeviceMesh) -> None:
        super().__init__()
        if mesh.ndim != 1 or not mesh.mesh_dim_names:
            raise ValueError(f"mesh must have one named dimension, got {mesh}")
        check_ascending(mesh)
        (name,) = mesh.mesh_dim_names
        check_divides(repr(name), mesh.size(), "the number of experts", w_down.shape[0])
        self.w_gate_up = split(w_gate_up, mesh, **{name: 0})
        self.w_down = split(w_down, mesh, **{name: 0})
        self.group = mesh.get_group()

    def forward(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Applies every token's experts. Every rank must call it, with any number of tokens.

        Args:
            x: ``[T, H]``, this rank's tokens.
            experts: ``[T, K]`` int32 | int64. Ids outside [0, E) add nothing.
            weights: ``[T, K]``, any float dtype.

        Returns:
            ``[T, H]``, as from :func:`moge_ops.grouped_mlp` in one process with the weights on the
            output.
        """
        _checks.tensors(("x", x, "[T, H]", _checks.FLOATS))
        ranks, E = self.group.size(), self.w_down.shape[0]
        routing = route(experts, E)  # sorted by expert, so by rank too
        counts = routing.offsets.diff()  # [E]
        received = exchange(counts, [E // ranks] * ranks, [E // ranks] * ranks, self.group)
        per_rank = torch.stack([counts, received]).view(2, ranks, -1)
        sent_rows, received_rows = per_rank.sum(-1).tolist()  # the host waits here

        rows = permute(x, routing)[: sum(sent_rows)]  # dropped slots come last
        arrived = exchange(rows, sent_rows, received_rows, self.group)  # by rank, then by expert
        ids = torch.arange(E // ranks, device=x.device).repeat(ranks)
        ids = ids.repeat_interleave(received, output_size=sum(received_rows)).unsqueeze(1)
        w_down: Tensor = own_part(self.w_down)
        ones = torch.ones_like(ids, dtype=torch.float32)
        out = grouped_mlp(
            arrived, own_part(self.w_gate_up), w_down, ones, route(ids, w_down.shape[0])
        )
        back = exchange(out, received_rows, sent_rows, self.group)
        return unpermute(filled(back, experts.numel()), routing, weights)
