"""What a model asks for its experts, and the guess of what it will ask next."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moge_ops import _backend
from moge_ops._quantized import QuantizedWeight
from moge_ops.nn import MoGE
from moge_ops.offload._pool import Pool
from moge_ops.offload._sources import Key, Source, Weights, like, parts
from moge_ops.ops.grouped_gate import Gating

__all__ = ["ExpertStore", "Layer", "in_place"]

# Of a layer's experts, the share from which on all of the next layer's are fetched ahead, in
# order; below it those that the next layer's router would take.
WHOLE = 0.75
# Guesses are given up where less than WORTH of what they fetched was needed, as a wrong one costs
# a read; every SELDOM-th is still made, and older ones FORGET, so that a change is noticed.
WORTH, FEW, SELDOM, FORGET = 0.5, 16.0, 16, 0.98


class Layer(NamedTuple):
    """One layer of experts."""

    name: str
    module: "weakref.ref[MoGE]"
    norm: "weakref.ref[nn.Module] | None"  # the one that it reads, if that is known
    usable: list[int]  # experts that may be read, in order
    num_experts: int


class ExpertStore:
    """The experts of a model: a pool of slots that all of its layers share, and what fills it.

    :func:`moge_ops.offload.of` gives the one of a model. Layers take turns, those of several
    threads too. A ``with`` block closes it at its end; so does the garbage collector.

    Attributes:
        pool: The slots.
        looks_ahead: Whether experts are fetched before their layer asks, as is so at first.
    """

    def __init__(self, source: Source, layers: Sequence[Layer], slots: int, threads: int) -> None:
        self._layers, self._source = layers, source
        experts = max(layer.num_experts for layer in layers)
        self.pool = Pool(source, len(layers), experts, slots, threads)
        self._finalizer = weakref.finalize(self, self.pool.close)
        self._scratch: Weights | None = None  # one layer's experts, each in its own place
        self._base: list[int] | None = None  # first slot of each layer, when all are there
        self.looks_ahead = True
        # the layer that ran after each: a head that nobody calls has no turn
        self._next = dict(enumerate(range(1, len(layers))))
        self._last = -1
        self._ratios: dict[int, Tensor | float] = {}
        self._guessed: set[Key] = set()  # of the running layer: what a guess began to fetch
        self._tried = self._right = 0.0  # how many were, and how many of them were needed
        self._turns = 0

    # --- what it tells ---

    @property
    def hits(self) -> int:
        """Experts that a layer asked for and that were in a slot, or on their way to one."""
        return self.pool.hits

    @property
    def misses(self) -> int:
        """Experts that a layer asked for and waited for from the beginning."""
        return self.pool.misses

    @property
    def bytes_read(self) -> int:
        """Bytes of experts that were moved into slots, those of wrong guesses too."""
        return self.pool.bytes_read

    @property
    def slots(self) -> int:
        """P, experts that are in memory at once."""
        return self.pool.slots

    @property
    def slot_bytes(self) -> int:
        """Memory of one slot."""
        return sum(x[0].nbytes for x in parts(self.weights))

    @property
    def weights(self) -> Weights:
        """The pool, ``[P, 2F, H]`` and ``[P, H, F]``."""
        return self._source.weights

    # --- its end ---

    def close(self) -> None:
        """Ends the threads and closes the files; the model cannot run any more. May come twice."""
        self._finalizer()

    def __enter__(self) -> "ExpertStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a model whose experts are offloaded cannot be copied or pickled: load the folder again"
        )

    # --- what layers ask ---

    def load_all(self) -> None:
        """Fills all slots once, where there is one for each expert; the source is closed then."""
        keys = [(i, e) for i, layer in enumerate(self._layers) for e in layer.usable]
        with self.pool.hold(keys, count=False) as wait:
            slots = wait()
        assert slots == list(range(len(keys)))
        self.pool.finish()
        base, n = [], 0
        for layer in self._layers:
            base.append(n)
            n += len(layer.usable)
        self._base = base

    @contextmanager
    def taken(
        self, layer: int, x: Tensor, gating: Gating
    ) -> Iterator[Callable[[], tuple[Any, Any, Tensor]]]:
        """Asks for the experts of a gating, which keep their slots inside the block.

        Yields what waits for them, and returns ``w_gate_up``, ``w_down``, and the experts' ids
        ``[T, K]`` among theirs.

        Raises:
            ValueError: ``routing`` gave an expert that is switched off; the store is closed; a file
                was changed.
            OSError: An expert cannot be read.
        """
        of = self._layers[layer]
        needed = gating.counts.nonzero().flatten().tolist()
        instead = self._off(of, needed, gating)
        keys = [(layer, e) for e in dict.fromkeys(instead.get(e, e) for e in needed)]
        with self.pool.hold(keys, lambda: self._guess(layer, x, keys)) as wait:

            def experts() -> tuple[Any, Any, Tensor]:
                slot_of = {e: slot for (_, e), slot in zip(keys, wait(), strict=True)}
                table = {e: slot_of[instead.get(e, e)] for e in needed}
                return self._weights(layer, x, gating.experts, table)

            yield experts

    def _weights(
        self, layer: int, x: Tensor, ids: Tensor, table: dict[int, int]
    ) -> tuple[Any, Any, Tensor]:
        """Weights, and ids among them; ``table`` has the slots of the experts in ``ids``."""
        of, (up, down) = self._layers[layer], self.weights
        E = of.num_experts
        if self._base is not None and len(of.usable) == E:
            own = slice(self._base[layer], self._base[layer] + E)
            return _rows(up, own), _rows(down, own), ids
        if self._in_place(x):
            slots = ids.new_tensor([table.get(e, -1) for e in range(E)] + [-1])
            return up, down, slots[ids.where((ids >= 0) & (ids < E), E).long()]
        up, down = scratch = self._layer_like(E)
        for e, slot in table.items():
            for into, pool in zip(parts(scratch), parts(self.weights), strict=True):
                into[e].copy_(pool[slot])
        return up, down, ids

    def _off(self, of: Layer, needed: list[int], gating: Gating) -> dict[int, int]:
        """Experts that are switched off and were chosen all the same -> another, that is on.

        A row of NaN may choose experts that are off. Its result is NaN with any experts.
        """
        if len(of.usable) == of.num_experts:
            return {}
        on = set(of.usable)
        off = [e for e in needed if e not in on]
        if off:
            chosen = torch.isin(gating.experts, gating.experts.new_tensor(off))
            if not bool(gating.weights[chosen].isnan().all()):
                raise ValueError(
                    f"routing must give experts that are on, got {off[0]} in {of.name}, which was "
                    "switched off when the model was loaded"
                )
        return dict.fromkeys(off, of.usable[0])

    def _in_place(self, x: Tensor) -> bool:
        down = self.weights[1]
        scheme = down.scheme if isinstance(down, QuantizedWeight) else None
        return in_place(scheme, x.device.type, x.dtype)

    def _layer_like(self, E: int) -> Weights:
        """Memory for one layer's experts in their own order; taken when it is first needed."""
        if self._scratch is None:
            self._scratch = like(self.weights, E, parts(self.weights)[0].device)
        return self._scratch

    # --- what they will ask next ---

    def _guess(self, layer: int, x: Tensor, needed: list[Key]) -> list[Key]:
        """Experts that the next layer may need; [] if nothing tells."""
        if self._base is not None:
            return []
        if self._last < layer and self._last >= 0:
            self._next[self._last] = layer
        self._last = layer
        if self._guessed:
            self._tried = (self._tried + len(self._guessed)) * FORGET
            self._right = (self._right + len(self._guessed.intersection(needed))) * FORGET
            self._guessed = set()
        if layer not in self._next or not self.looks_ahead:
            return []
        of, following = self._layers[layer], self._layers[self._next[layer]]
        if len(needed) >= WHOLE * len(of.usable):
            return [(self._next[layer], e) for e in following.usable]
        self._turns += 1
        if self._tried > FEW and self._right < WORTH * self._tried and self._turns % SELDOM:
            return []
        module = following.module()
        if module is None:
            return []
        with torch.no_grad():
            _, gating = module.router(x * self._ratio(layer, x))
        chosen = gating.counts.nonzero().flatten().tolist()
        found = [(self._next[layer], e) for e in chosen if e in following.usable]
        self._guessed = set(self.pool.missing(found))
        return found

    def _ratio(self, layer: int, x: Tensor) -> Tensor | float:
        """``[H]``: what makes of this layer's input, a norm's output, about that of the next."""
        if layer not in self._ratios:
            norms = [self._layers[i].norm for i in (layer, self._next[layer])]
            ours, theirs = (getattr(norm and norm(), "weight", None) for norm in norms)
            self._ratios[layer] = 1.0
            if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
                ratio = torch.where(ours == 0, 0, theirs.float() / ours.float())
                self._ratios[layer] = ratio.to(x.dtype)
        return self._ratios[layer]


def in_place(scheme: str | None, device: str, dtype: torch.dtype) -> bool:
    """Whether the kernels multiply alike wherever in the pool an expert lies.

    Those of the torch backend multiply neighbours together, so that bits depend on places; and one
    form of four bits is unpacked for all experts of a call, used or not.
    """
    return scheme != "int4_w4a8" and _backend.chosen(device, dtype) in ("cpu", "triton", "ascend")


def _rows(w: Tensor | QuantizedWeight, rows: slice) -> Tensor | QuantizedWeight:
    if isinstance(w, Tensor):
        return w[rows]
    zero = None if w.zero is None else w.zero[rows]
    return w._replace(data=w.data[rows], scale=w.scale[rows], zero=zero)
