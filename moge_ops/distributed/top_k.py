"""Expert parallelism for any choice of experts, with sizes that depend on the choice."""

import torch
import torch.distributed as dist
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

    On a mesh of two dimensions, nodes and the devices of a node, the exchange is hierarchical::

        between nodes   x of a token, its ids and weights --> the device at the same place in each
                        node that has one of its experts: once, however many it has there
        inside a node   its rows --> the devices of their experts, and back
                        the device at that place sums them up, weighted
        between nodes   the sum --> back, where the sums of the nodes are added up

    Between nodes a token's H elements then travel as often as it has other nodes, and not as often
    as it has experts there, in both directions; ids and weights come on top, 2·K numbers. Inside
    the nodes more travels. The sum of a node is rounded to the dtype of ``x`` before it returns.

    Gradients are those of the sum of the ranks' losses.

    Parameters, DTensors on ``mesh``, split over its ranks:
        w_gate_up: ``[E, 2F, H]``, gate half first; w_down: ``[E, H, F]``.

    Args:
        w_gate_up, w_down: The whole weights, the same on every rank, or on the meta device. A rank
            keeps its part.
        mesh: With one named dimension, or two, the first of which counts the nodes; all its ranks
            divide E. Consecutive ranks share a node, as with torchrun.

    Raises:
        ValueError: The mesh has other dimensions, or its ranks do not divide E; raised on every
            rank before any communication.

    Source:
        The two levels: Tang et al. 2025, "Pangu Ultra MoE" (arXiv:2505.04519), which gathers all
        tokens between the nodes. Sending a token once to each node that needs it: Liu et al. 2024,
        "DeepSeek-V3", section 3.2.2 (arXiv:2412.19437).
    """

    def __init__(self, w_gate_up: Tensor, w_down: Tensor, mesh: DeviceMesh) -> None:
        super().__init__()
        names = mesh.mesh_dim_names or ()
        if len(names) not in (1, 2):
            raise ValueError(f"mesh must have one or two named dimensions, got {mesh}")
        check_ascending(mesh)
        check_divides(
            " and ".join(map(repr, names)), mesh.size(), "the number of experts", w_down.shape[0]
        )
        dims = dict.fromkeys(names, 0)
        self.w_gate_up = split(w_gate_up, mesh, **dims)
        self.w_down = split(w_down, mesh, **dims)
        # the group that shares a node's experts, and the one across the nodes
        self.group = mesh.get_group(names[-1])
        self.nodes = mesh.get_group(names[0]) if len(names) == 2 else None

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
        _checks.tensors(
            ("x", x, "[T, H]", _checks.FLOATS),
            ("experts", experts, "[T, K]", _checks.IDS),
            ("weights", weights, "[T, K]", _checks.FLOATS),
        )
        if self.nodes is None:
            return self._in_node(x, experts, weights)
        return self._across_nodes(x, experts, weights, self.nodes)

    def _across_nodes(
        self, x: Tensor, experts: Tensor, weights: Tensor, nodes: dist.ProcessGroup
    ) -> Tensor:
        (T, K), M = experts.shape, nodes.size()
        of_node = self.w_down.shape[0] // M  # experts
        node = torch.arange(M, device=x.device).view(M, 1)
        ids = experts.unsqueeze(1) - node * of_node  # [T, M, K], of the node's experts
        ids = torch.where((ids >= 0) & (ids < of_node), ids, -1)
        used = (ids >= 0).any(2)  # [T, M]
        routing = route(torch.where(used, node.view(1, M), -1).int(), M)  # by node
        sent, received = self._sizes(routing.offsets.diff(), nodes)

        slots = routing.row_to_slot[: sum(sent)].long()  # token * M + node
        rows = permute(x, routing)[: sum(sent)]
        weights = weights.unsqueeze(1).expand(T, M, K).flatten(0, 1)[slots]
        arrived, their_weights, their_ids = (
            exchange(part, sent, received, nodes)
            for part in (rows, weights, ids.flatten(0, 1)[slots])
        )
        back = exchange(self._in_node(arrived, their_ids, their_weights), received, sent, nodes)
        return unpermute(filled(back, T * M), routing)

    def _sizes(self, counts: Tensor, group: dist.ProcessGroup) -> tuple[list[int], list[int]]:
        """Rows that go to each rank of the group, and that come from it, by ``counts [ranks]``."""
        ones = [1] * group.size()
        received = exchange(counts, ones, ones, group)
        sent, got = torch.stack([counts, received]).tolist()  # the host waits here
        return sent, got

    def _in_node(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        ranks = self.group.size()
        E = self.w_down.shape[0] // (1 if self.nodes is None else self.nodes.size())
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
