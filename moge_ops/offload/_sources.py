"""Where experts come from: the files of a folder, or host memory."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from moge_ops._quantized import QuantizedWeight
from moge_ops.offload._reading import Files, Place, read_together
from moge_ops.quant._plan import Layer
from moge_ops.quant.formats import Filling

__all__ = [
    "Key",
    "Matrix",
    "Memory",
    "PlainFiles",
    "QuantizedFiles",
    "Source",
    "Weights",
    "like",
    "parts",
]

Key = tuple[int, int]  # layer, expert
Weight = Tensor | QuantizedWeight
Weights = tuple[Weight, Weight]


class Matrix(NamedTuple):
    """One tensor of an expert's files."""

    weight: int  # 0 for w_gate_up, 1 for w_down
    half: int
    part: str  # of a quantised matrix; "" for a plain one
    place: Place


def parts(weights: Weights) -> list[Tensor]:
    """All tensors of two stacked weights, plain or quantised."""
    found: list[Tensor] = []
    for w in weights:
        found += [w] if isinstance(w, Tensor) else [x for x in w[:3] if x is not None]
    return found


def like(weights: Weights, slots: int, device: torch.device) -> Weights:
    """A pool of as many slots, with zeros in them."""

    def pool(x: Tensor) -> Tensor:
        return torch.zeros(slots, *x.shape[1:], dtype=x.dtype, device=device)

    def both(w: Weight) -> Weight:
        if isinstance(w, Tensor):
            return pool(w)
        zero = None if w.zero is None else pool(w.zero)
        return w._replace(data=pool(w.data), scale=pool(w.scale), zero=zero)

    return both(weights[0]), both(weights[1])


class Source(Protocol):
    """What fills slots of a pool."""

    @property
    def weights(self) -> Weights:
        """The pool: ``[P, 2F, H]`` and ``[P, H, F]``."""

    def fill(self, key: Key, slot: int) -> int:
        """Brings an expert into a slot; returns how many bytes moved. From any thread."""

    def free(self, slots: Iterable[int]) -> None:
        """Says that work which uses these slots has been launched, and that they may be filled."""

    def close(self) -> None:
        """Lets go of files; may come twice."""


class _FromFiles:
    def __init__(self, files: Files, of: dict[Key, list[Matrix]]) -> None:
        self.files, self.of = files, of

    def free(self, slots: Iterable[int]) -> None:
        pass

    def close(self) -> None:
        self.files.close()


class PlainFiles(_FromFiles):
    """Experts as the files have them, read straight into the pool.

    Args:
        files: Stays open until this is closed.
        of: The three tensors of every expert.
        shape: P, F, H.
    """

    def __init__(
        self, files: Files, of: dict[Key, list[Matrix]], shape: tuple[int, int, int]
    ) -> None:
        super().__init__(files, of)
        (P, F, H), dtype = shape, next(iter(of.values()))[0].place.dtype
        self.pool = torch.empty(P, 2 * F, H, dtype=dtype), torch.empty(P, H, F, dtype=dtype)

    @property
    def weights(self) -> Weights:
        """``[P, 2F, H]`` and ``[P, H, F]``, of which no byte is in memory before it is read."""
        return self.pool

    def fill(self, key: Key, slot: int) -> int:
        """One read, where the three matrices lie together."""

        def rows(weight: int, half: int, O: int) -> Tensor:
            return self.pool[weight][slot, half * O : (half + 1) * O]

        read_together((m.place, rows(m.weight, m.half, m.place.shape[0])) for m in self.of[key])
        return sum(matrix.place.nbytes for matrix in self.of[key])


class QuantizedFiles(_FromFiles):
    """Experts in a format that :func:`moge_ops.quant.read_experts` knows, in the pool's own form.

    Args:
        files, of: As of :class:`PlainFiles`.
        layer: What the folder's headers say; all layers are alike.
        slots: P.
    """

    def __init__(self, files: Files, of: dict[Key, list[Matrix]], layer: Layer, slots: int) -> None:
        super().__init__(files, of)
        self._filling = [
            Filling(w._replace(sizes=(slots, *w.sizes[1:])), "cpu") for w in (layer.up, layer.down)
        ]

    @property
    def weights(self) -> Weights:
        """``[P, 2F, H]`` and ``[P, H, F]``."""
        up, down = (filling.weight for filling in self._filling)
        return up, down

    def fill(self, key: Key, slot: int) -> int:
        """Reads every part, then sets scales and zero points."""
        matrices = self.of[key]
        try:
            for weight, half, part, place in matrices:
                self._filling[weight].put(slot, half, part, place.new(), place.where)
            for weight, half in dict.fromkeys(matrix[:2] for matrix in matrices):
                self._filling[weight].finish(slot, half)
        finally:
            for weight, half, *_ in matrices:
                self._filling[weight].forget(slot, half)
        return sum(matrix.place.nbytes for matrix in matrices)


class Memory:
    """Experts in host memory, copied to the pool on a device; pinned if the device is a GPU.

    On a GPU every copy is on a stream of its own beside the one that computes, and waits until
    kernels that were launched before have read the slot. This was not run on a GPU yet.

    Args:
        other: Gives the experts, once.
        keys: In the order of its slots.
        slots: P.
        device: Of the pool.
    """

    def __init__(
        self, other: Source, keys: Sequence[Key], slots: int, device: torch.device
    ) -> None:
        self._row = {key: i for i, key in enumerate(keys)}
        for key, i in self._row.items():
            other.fill(key, i)
        self._gpu = device.type == "cuda"
        self._host = [x.pin_memory() if self._gpu else x for x in parts(other.weights)]

        self.weights = like(other.weights, slots, device)
        self._pool = parts(self.weights)
        self._device, self._used = device, dict[int, torch.cuda.Event]()
        self._stream: Any = torch.cuda.Stream(device) if self._gpu else None  # type: ignore[no-untyped-call]

    def fill(self, key: Key, slot: int) -> int:
        """Copies all parts, and waits for the copies."""
        i = self._row[key]
        if not self._gpu:
            for pool, host in zip(self._pool, self._host, strict=True):
                pool[slot].copy_(host[i])
        else:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                stream = torch.cuda.current_stream()
                if slot in self._used:
                    stream.wait_event(self._used.pop(slot))
                for pool, host in zip(self._pool, self._host, strict=True):
                    pool[slot].copy_(host[i], non_blocking=True)
                stream.synchronize()
        return sum(host[i].nbytes for host in self._host)

    def free(self, slots: Iterable[int]) -> None:
        """Marks the end of the kernels that were launched so far."""
        if self._gpu:
            event = torch.cuda.current_stream(self._device).record_event()
            self._used.update(dict.fromkeys(slots, event))

    def close(self) -> None:
        """Lets go of the host's memory."""
        self._host.clear()
