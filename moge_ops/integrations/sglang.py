"""SGLang: Intern-S1-Pro routed by the fused gate; a plug-in of SGLang.

SGLang calls :func:`register` in each of its processes, by the entry point ``sglang.srt.plugins``,
wherever this package is installed, so that no user calls it. ``MOGE_OPS_SGLANG=0`` switches it
off. The engine's functions are those of SGLang 0.5.23; ``docs/engines/sglang.md`` says what ran.
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from moge_ops.integrations import _engines

__all__ = ["register"]

MODEL = "sglang.srt.models.interns1pro"
LAYER, ROUTING = "InternS1ProTextDecoderLayer", "_custom_routing_function"
ARGUMENTS = ["self", "hidden_states", "gating_output", "topk", "renormalize"]
BUILD = "sglang.srt.utils.common.make_layers"

Routed = tuple[Tensor, Tensor]


@functools.cache  # SGLang would keep a second hook beside the first
def register() -> None:
    """Hooks the gate of Intern-S1-Pro into SGLang; more than one call does no harm.

    Nothing is raised: where SGLang is not as this package knows it, there is one warning, and
    SGLang runs as without this package.
    """
    if not _engines.wanted("sglang"):
        return
    # The registry imports what it hooks, and load_plugins runs in the launcher and the
    # detokenizer too, before the server's arguments are read: the model's file would bring its
    # 800 modules into each. make_layers is in a module that load_plugins itself has imported, and
    # is called before the first layer is built.
    try:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType
        from sglang.srt.utils.common import make_layers  # noqa: F401 - apply_hooks only logs

        HookRegistry.register(BUILD, _before_layers, HookType.BEFORE)
    except Exception as error:  # whatever its imports may raise
        leave(f"its registry of hooks and {BUILD} must be as in 0.5.23: {error}")


def leave(reason: str) -> None:
    """Warns, once, that SGLang runs as if this package were not there."""
    _engines.leave("SGLang", "sglang", reason)


def _before_layers(*_: Any, **__: Any) -> None:
    """Before a model builds its layers: SGLang has imported the files of all models by then."""
    model = sys.modules.get(MODEL)
    if model is not None:
        _patch(model)


@functools.cache  # a draft model builds layers too
def _patch(model: ModuleType) -> None:
    """Puts the gate into Intern-S1-Pro's layer, and a look at each layer that was built.

    By assignment, as HookRegistry passes over what another plug-in has hooked before.
    """
    try:
        build: Any = _engines.own_class(MODEL, LAYER).__init__
    except LookupError as error:
        leave(str(error))
        return
    try:
        original = _engines.own_method(
            MODEL, LAYER, ROUTING, parameters=ARGUMENTS, reads=["router_n_groups"]
        )
    except LookupError as error:
        reason = str(error)
    else:
        reason = ""
        setattr(vars(model)[LAYER], ROUTING, _fused(original))

    @functools.wraps(build)
    def built(layer: Any, *args: Any, **kwargs: Any) -> None:
        build(layer, *args, **kwargs)
        if getattr(layer, "router_n_groups", -1) > 0:
            if reason:
                leave(reason)
            else:
                _refuse_silent_paths(layer)
                _say()

    vars(model)[LAYER].__init__ = built


def _fused(original: Callable[..., Routed]) -> Callable[..., Routed]:
    @functools.wraps(original)
    def route(
        self: Any, hidden_states: Tensor, gating_output: Tensor, topk: int, renormalize: bool
    ) -> Routed:
        """The method's own contract: float32 weights that the caller may scale in place, and ids.

        They are int32, as from SGLang's own kernels: layers/moe/topk.py,
        _mask_topk_ids_padded_region, has a fused kernel for those, and none for the int64 of
        torch.topk.
        """
        groups = self.router_n_groups
        if groups <= 0:
            return original(self, hidden_states, gating_output, topk, renormalize)
        gating = _engines.choose(gating_output, groups, topk, renormalize=bool(renormalize))
        return gating.weights.float(), gating.experts

    return route


@functools.cache
def _say() -> None:
    _engines.logger.info("moge_ops: the fused gate routes Intern-S1-Pro.")


def _refuse_silent_paths(layer: Any) -> None:
    """Raises, for a layer with groups, where SGLang would not call its routing function.

    In layers/moe/topk.py, TopK.bind_runner_backend picks the format of TopK's output. With
    TRITON_KERNEL, TopK.forward_cuda calls routing() of triton_kernels on the logits; with BYPASSED,
    as of flashinfer_mxfp4, the experts' kernel may choose from the logits itself; only with
    STANDARD is it always select_experts, and in it the routing function. On an NPU, fused_topk_npu
    of hardware_backend/npu/moe/topk.py takes its branch for models without a bias, which is
    npu_moe_gating_top_k_softmax.

    Raises:
        ValueError: The layer would be routed wrongly, or its experts do not divide into groups.
    """
    groups = layer.router_n_groups
    try:
        from sglang.srt.utils import is_npu

        config = layer.mlp.topk.topk_config
        form = getattr(config.output_format, "name", "STANDARD")
        backend = getattr(config.runner_backend, "value", config.runner_backend)
        on_npu, experts = is_npu(), layer.config.num_experts
    except (ImportError, AttributeError) as error:
        _cannot_check(str(error))
        return
    if experts % groups:
        raise ValueError(
            f"num_experts must be a multiple of router_n_groups={groups}, got {experts}: this "
            "config is not that of a model with groups of experts"
        )
    wrongly = (
        f"does not call the routing function of this model (router_n_groups={groups}): its tokens "
        "would go to wrong experts, in silence"
    )
    if form != "STANDARD":
        raise ValueError(
            f"TopK's output format must be STANDARD, got {form} from the runner of experts "
            f"{backend!r}, which {wrongly}. Start SGLang with --moe-runner-backend triton"
        )
    if on_npu:
        raise ValueError(
            f"the device must be a GPU or a CPU, got an NPU, where SGLang's fused_topk_npu "
            f"{wrongly}. Serve this model on a GPU"
        )


@functools.cache
def _cannot_check(reason: str) -> None:
    _engines.logger.warning(
        "moge_ops cannot tell whether SGLang calls the routing function of Intern-S1-Pro, as its "
        "TopK is not as in 0.5.23: %s. Keep to --moe-runner-backend triton.",
        reason,
    )
