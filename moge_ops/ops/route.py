"""Routing: which row of the expert-sorted order holds which slot."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moge_ops import _backend, _checks
from moge_ops.reference.route import route as _reference

MAX_EXPERTS = 16384  # a kernel holds the counts of all experts in one tile
MAX_ROWS = 2**31 - 1  # rows and slots are numbered in int32


class Routing(NamedTuple):
    """Where every slot's row is; ``slot = t * K + column`` numbers the entries of ``experts``.

    Attributes:
        row_to_slot: ``[N]`` int32, the inverse of ``slot_to_row``; -1 from row ``offsets[E]`` on,
            and at padded rows.
        slot_to_row: ``[T, K]`` int32; -1 for a dropped slot.
        offsets: ``[E + 1]`` int32; expert e owns rows ``[offsets[e], offsets[e + 1])``.
    """

    row_to_slot: Tensor
    slot_to_row: Tensor
    offsets: Tensor


@_backend.define()
def route_fwd(
    experts: Tensor, num_experts: int, num_groups: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``[T, K] -> row_to_slot [N], slot_to_row [T, K], offsets [E + 1]``, all int32."""
    T, K = experts.shape
    row_to_slot = experts.new_empty(T * K, dtype=torch.int32)
    slot_to_row = experts.new_empty(T, K, dtype=torch.int32)
    return row_to_slot, slot_to_row, experts.new_empty(num_experts + 1, dtype=torch.int32)


def routing_specs(routing: Any) -> list[tuple[str, Any, str, tuple[torch.dtype, ...]]]:
    """What :func:`moge_ops._checks.tensors` checks of a routing; TypeError for another type."""
    if not isinstance(routing, Routing):
        raise TypeError(f"routing must be what route returned, got {type(routing).__name__}")
    return [
        ("routing.slot_to_row", routing.slot_to_row, "[T, K]", (torch.int32,)),
        ("routing.row_to_slot", routing.row_to_slot, "[N]", (torch.int32,)),
        ("routing.offsets", routing.offsets, "[E + 1]", (torch.int32,)),
    ]


def _pad(routing: Routing, N: int, pad_to: int) -> Routing:
    """Moves each expert's rows to a multiple of ``pad_to``, of N rows in all."""
    row_to_slot, slot_to_row, offsets = routing
    counts = offsets.diff()
    padded = ((counts.long() + (pad_to - 1)) // pad_to * pad_to).int()
    ends = padded.cumsum(0, dtype=torch.int32)
    shift = ends - padded - offsets[:-1]  # [E]

    row = torch.arange(N, dtype=torch.int32, device=ends.device)
    # a row that no expert owns gets the last expert here, and -1 below: it is past that one's rows
    expert = torch.bucketize(row, ends, right=True).clamp_max(counts.shape[0] - 1)
    source = row - shift[expert]
    moved = row_to_slot[source.clamp_max(row_to_slot.shape[0] - 1)]
    moved = torch.where(source < offsets[1:][expert], moved, -1)

    expert = torch.bucketize(slot_to_row, offsets[1:], right=True).clamp_max(counts.shape[0] - 1)
    slot_to_row = torch.where(slot_to_row < 0, -1, slot_to_row + shift[expert])
    return Routing(moved, slot_to_row, F.pad(ends, (1, 0)))


def route(
    experts: Tensor,
    num_experts: int,
    *,
    num_groups: int | None = None,
    pad_to: int | None = None,
) -> Routing:
    r"""Sorts the slots of a batch by expert, within an expert by slot (stable).

    Null experts (AdaMoE), which let a token use fewer than K: give the router E + n logits, let
    :func:`moge_ops.grouped_gate` choose among them in one group, and call this with E. Ids from E
    on are dropped slots: no row is computed for them, and the softmax still takes the gradient to
    their logits. With several groups, each of n outputs with its null ones last, renumber first:
    ``torch.where(ids % n < E // G, ids // n * (E // G) + ids % n, E)``.

    Args:
        experts: ``[T, K]``, int32 | int64, the experts of every token; any strides. An id may come
            more than once in a row.
        num_experts: E, at most 16384.
        num_groups: G, if column block g (K/G columns) holds only experts of group g (E/G
            neighbours), as :func:`moge_ops.grouped_gate` gives them. Every group is then
            partitioned on its own; the result is the same. Without dropped slots group g owns rows
            ``[g * T * K/G, (g + 1) * T * K/G)``, unless they are padded.
        pad_to: If given, every expert with rows owns a multiple of this many, as products of other
            libraries may want: N becomes ``(T*K + min(E, T*K) * (pad_to - 1)) // pad_to * pad_to``,
            enough for any choice of experts. The last rows of an expert may then be padding: -1 in
            ``row_to_slot``, zero in what :func:`moge_ops.permute` gives, and in no token's sum.

    Returns:
        :class:`Routing`, on the device of ``experts``. Slots whose id is outside ``[0, E)``, or
        outside the group of their column, are dropped: -1 in ``slot_to_row``, in no expert's rows,
        and ``row_to_slot`` is -1 from row ``offsets[E]`` on. Integers only, deterministic, not
        differentiable; no launch waits for the host.

    Raises:
        TypeError: ``experts`` is not an int32 or int64 tensor, or a count is not an int.
        ValueError: ``experts`` is not 2-D or has 2^31 elements or more, ``num_experts`` is outside
            [1, 16384], ``num_groups`` does not divide both K and ``num_experts``, or ``pad_to`` is
            below 1, or makes 2^31 rows or more.

    Source:
        Tang et al. 2025, "Pangu Pro MoE: Mixture of Grouped Experts for Efficient Sparsity",
        section 2 (arXiv:2505.21411): every token meets each group equally often. Null experts:
        Zeng et al. 2024, "AdaMoE" (arXiv:2406.13233).
    """
    _checks.tensors(("experts", experts, "[T, K]", _checks.IDS))
    T, K = experts.shape
    # a size without a bound has no such limit in torch.export; it would take a tensor of 8 GB
    if not torch.compiler.is_compiling() and T * K > MAX_ROWS:
        raise ValueError(f"experts must be [T, K] with T * K below 2^31, got {[T, K]}")
    _checks.integer("num_experts", num_experts, least=1, most=MAX_EXPERTS)
    if num_groups is not None:
        _checks.groups(num_experts, num_groups)
        if K % num_groups:
            raise ValueError(
                f"experts must be [T, K] with K divisible by num_groups={num_groups}, got {[T, K]}"
            )
    N = T * K
    if pad_to is not None:
        _checks.integer("pad_to", pad_to, least=1, most=MAX_ROWS)
        with_rows = torch.sym_min(num_experts, N)  # type: ignore[no-untyped-call]
        N = (N + with_rows * (pad_to - 1)) // pad_to * pad_to
        if not torch.compiler.is_compiling() and N > MAX_ROWS:
            raise ValueError(f"pad_to must make less than 2^31 rows, got {pad_to}, which makes {N}")
    if _backend.use_reference(experts):
        found = _reference(experts, num_experts, num_groups=num_groups, pad_to=pad_to)
        return Routing(*found)
    routing = Routing(*route_fwd(experts, num_experts, num_groups))
    return routing if pad_to is None else _pad(routing, N, pad_to)
