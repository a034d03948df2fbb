"""The operators' FLOPs, for PyTorch's own counter.

``torch.utils.flop_counter`` imports Triton, so that to import it here would cost every user most of
a second, and Triton's choice between the GPU and its interpreter. It gets the formulas as soon as
somebody else imports it.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

Formula = Callable[..., int]
"""Takes an operator's arguments, with a shape for each tensor."""

_COUNTER = "torch.utils.flop_counter"
_formulas: dict[str, Formula] = {}


def register(op: str, formula: Formula) -> None:
    """Gives the counter the formula of ``moge_ops::<op>``, now or when it is imported."""
    _formulas[op] = formula
    if _COUNTER in sys.modules:
        _tell(sys.modules[_COUNTER], op)
    elif _waiting not in sys.meta_path:
        sys.meta_path.insert(0, _waiting)


def _tell(counter: ModuleType, op: str) -> None:
    def shaped(*args: Any, out_shape: Any = None) -> int:
        return _formulas[op](*args)

    counter.register_flop_formula(getattr(torch.ops.moge_ops, op))(shaped)


class _Waiting(MetaPathFinder):
    """Finds the counter as others do, and has the formulas registered once it was executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        # by the finders after this one: a copy from the kernels hub may wait there too
        rest = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(fullname, path, target) for finder in rest)
        spec = next(filter(None, specs), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for op in _formulas:
                _tell(module, op)
            sys.meta_path.remove(self)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_waiting = _Waiting()
