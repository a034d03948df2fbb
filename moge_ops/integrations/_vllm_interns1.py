"""Intern-S1-Pro for vLLM's registry: vLLM's own model, whose routing is the fused gate.

vLLM imports this file when it inspects or serves that model, and no sooner.
"""

import functools
import logging
from typing import Any

from torch import Tensor
from vllm.model_executor.models import interns1_pro

from moge_ops.integrations import _engines, vllm

BLOCK, METHOD = "InternS1ProMoeSparseMoeBlock", "_custom_routing_function"
ARGUMENTS = ["self", "hidden_states", "gating_output", "topk", "renormalize"]
# below vLLM's own logger, whose lines are shown
logger = logging.getLogger("vllm.moge_ops")


def __getattr__(name: str) -> Any:
    """The model under the name that :func:`moge_ops.integrations.vllm.register` made up for it."""
    if name.partition("@")[0] != vllm.INTERN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(interns1_pro, vllm.INTERN)


def _fused(original: Any) -> Any:
    @functools.wraps(original)
    def route(
        self: Any, hidden_states: Tensor, gating_output: Tensor, topk: int, renormalize: bool
    ) -> tuple[Tensor, Tensor]:
        if self.n_groups < 1:
            return original(self, hidden_states, gating_output, topk, renormalize)  # type: ignore[no-any-return]
        gating = _engines.choose(gating_output, self.n_groups, topk, renormalize=bool(renormalize))
        return gating.weights.float(), gating.experts

    route.moge_ops = True  # type: ignore[attr-defined]
    return route


def _patch() -> None:
    home = interns1_pro.__name__
    if getattr(getattr(getattr(interns1_pro, BLOCK, None), METHOD, None), "moge_ops", False):
        return
    try:
        method = _engines.own_method(home, BLOCK, METHOD, parameters=ARGUMENTS, reads=["n_groups"])
    except LookupError as error:
        vllm.leave(str(error))
        return
    block = _engines.own_class(home, BLOCK)
    setattr(block, METHOD, _fused(method))
    build = block.__init__

    @functools.wraps(build)
    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if getattr(self, "n_groups", -1) >= 1:
            _say()

    block.__init__ = built


@functools.cache
def _say() -> None:
    logger.info("moge_ops: the fused gate routes Intern-S1-Pro.")


_patch()
