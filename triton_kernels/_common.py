"""Helpers that several kernel files share."""

import torch
import triton
import triton.language as tl
from triton.language import target_info

# whether the interpreter runs the functions of this process: ours, and Triton's own, which are
# compiled for a GPU if torch has imported Triton before anybody asked for the interpreter
INTERPRETED: bool = triton.knobs.runtime.interpret and not isinstance(tl.cdiv, triton.JITFunction)
_INTERPRETED = tl.constexpr(INTERPRETED)


def acc_dtype(dtype: torch.dtype) -> tl.dtype:
    """What sums are kept in: float32, or float64 for float64, so that gradcheck works."""
    return tl.float64 if dtype is torch.float64 else tl.float32


def num_programs(device: torch.device, tiles: int, blocks: int = 1) -> int:
    """Size of a persistent grid: ``blocks`` programs per multiprocessor, at most one per tile."""
    if INTERPRETED:
        return min(tiles, 3)  # few, so that each one walks over several tiles
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        tiles = min(tiles, processors * blocks)
    return tiles


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """``x`` in the dtype of the memory that it goes to, rounded to nearest even."""
    if _INTERPRETED and dtype == tl.bfloat16:
        # the interpreter's own conversion is exact only where there is nothing to round
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def publish(ptrs, values, mask):
    """Stores what the last program of the grid, see :func:`is_last_program`, will read."""
    # on AMD the barrier waits for shared memory only, so that a plain store could arrive after
    # the ticket. A thread waits for an acquiring atomic; an exchange gives the same in any order
    if target_info.is_hip():
        # the cast hides base and offset: Triton 3.6 cannot lower an exchange at their sum
        ptrs = ptrs.to(tl.int64).to(ptrs.dtype)
        tl.atomic_xchg(ptrs, values, mask=mask, sem="acq_rel")
    else:
        tl.store(ptrs, values, mask=mask)


@triton.jit
def is_last_program(ticket_ptr):  # [1]
    """Whether this program is the grid's last to get here; it sees what the others published.

    The last program also resets the ticket for the next launch.
    """
    # one thread does the atomic: the barrier makes the other threads publish before it
    tl.debug_barrier()
    last = tl.atomic_add(ticket_ptr, 1, sem="acq_rel") == tl.num_programs(0) - 1
    if last:
        tl.store(ticket_ptr, 0)
    return last


@triton.jit
def column_sums(partials_ptr, E: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_E: tl.constexpr):
    """``[programs, E] -> [BLOCK_E]``: sums what the programs published, in a fixed order."""
    offs_row = tl.arange(0, BLOCK_ROWS)[:, None].to(tl.int64)
    offs_e = tl.arange(0, BLOCK_E)[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_E], partials_ptr.dtype.element_ty)
    for first in range(0, tl.num_programs(0), BLOCK_ROWS):
        rows = first + offs_row
        mask = (rows < tl.num_programs(0)) & (offs_e < E)
        # .cg reads L2: stores of other multiprocessors do not reach this one's L1
        sums += tl.load(partials_ptr + rows * E + offs_e, mask=mask, other=0, cache_modifier=".cg")
    return tl.sum(sums, 0)


_tickets: dict[tuple[torch.device, int], torch.Tensor] = {}


def ticket(device: torch.device) -> torch.Tensor:
    """A zero for :func:`is_last_program`, int32 ``[1]``."""
    stream = 0
    if device.type == "cuda":
        # a replay may overlap with that of another CUDA graph, or with eager launches, on other
        # streams: each captured launch gets a ticket of its own, which the graph zeroes
        if torch.cuda.is_current_stream_capturing():
            return torch.zeros(1, dtype=torch.int32, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
    # the kernels of one stream follow one another, so that one ticket serves them all
    if (device, stream) not in _tickets:
        _tickets[device, stream] = torch.zeros(1, dtype=torch.int32, device=device)
    return _tickets[device, stream]
