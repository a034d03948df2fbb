"""Hugging Face transformers: experts on moge_ops, grouped routing, Pangu Pro MoE's auto classes.

::

    from moge_ops.integrations.transformers import ExpertsQuantizationConfig, register

    register()
    model = AutoModelForCausalLM.from_pretrained(name, experts_implementation="moge_ops")
    # or with quantised experts, in a half to a quarter of the memory
    config = ExpertsQuantizationConfig("int4_w4a16", group_size=64)
    model = AutoModelForCausalLM.from_pretrained(name, quantization_config=config)

This serves all models with the experts interface, whose experts class is decorated with
``use_experts_implementation``: Qwen3-MoE, Mixtral, DeepSeek-V3, GPT-OSS, OLMoE, Granite-MoE and
others. For models without it the option is refused once :func:`register` was called. In
transformers 5.24 these are DBRX, Doge, JetMoE, Llama 4, LongCat-Flash, NLLB-MoE, Step-3.7, Switch
Transformers, ViTPose, dense models, and remote code with a list of expert modules;
:func:`swap_moge_routing` serves such code if its routing is MoGE's.
"""

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from moge_ops.integrations import _experts_interface, _quantizer
from moge_ops.integrations._experts_activation import activation_of, gate_of
from moge_ops.integrations._quantized_folders import load_quantized
from moge_ops.integrations._quantizer import ExpertsQuantizationConfig
from moge_ops.integrations.pangu_auto import (
    PanguProMoEConfig,
    PanguProMoEForCausalLM,
    PanguProMoEForSequenceClassification,
    PanguProMoEModel,
)
from moge_ops.nn import FrozenWeight
from moge_ops.ops.grouped_gate import gate_and_route, grouped_gate
from moge_ops.ops.grouped_gemm import grouped_gemm
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.permute import permute
from moge_ops.ops.route import route
from moge_ops.ops.unpermute import unpermute
from moge_ops.quant import QuantizedWeight

__all__ = [
    "ExpertsQuantizationConfig",
    "experts_forward",
    "load_quantized",
    "register",
    "swap_moge_routing",
]


def register() -> None:
    """Registers moge_ops with transformers; more than one call does no harm.

    - ``experts_implementation="moge_ops"`` (or ``model.set_experts_implementation("moge_ops")``)
      runs a model's experts by :func:`experts_forward`. Where no module of the model has the
      interface, this is a ValueError: ``from_pretrained``, ``from_config`` with the option, and
      ``set_experts_implementation`` look at the model's modules. Only a model that is built from a
      configuration which holds the option already is not looked at.
    - ``from_pretrained`` with a :class:`ExpertsQuantizationConfig` as ``quantization_config``
      quantises the experts of a plain folder while it is loaded: each stacked weight as soon as its
      tensors are read, so the peak of memory is the quantised model and a few times the largest
      stacked weight. The experts run on moge_ops, whatever ``experts_implementation`` says. What
      ``save_pretrained`` makes of such a model is loaded by ``from_pretrained`` without options,
      once :func:`register` was called; without it, transformers warns and draws random experts.
      Folders in other formats are loaded by :func:`load_quantized`.
    - ``AutoConfig``, ``AutoModel``, ``AutoModelForCausalLM`` and
      ``AutoModelForSequenceClassification`` load folders of ``model_type`` ``"PanguProMoE"``
      without remote code. So does ``pipeline("text-generation")``, if the folder has a tokenizer
      that transformers knows (``tokenizer.json``). The released tokenizer is remote code too: pass
      another as ``tokenizer=``.

    Raises:
        ImportError: This release of transformers has changed a private step that this relies on.
    """
    _experts_interface.verify()
    _experts_interface.ALL_EXPERTS_FUNCTIONS.register("moge_ops", experts_forward)
    _experts_interface.forbid_silence()
    _quantizer.register()
    AutoConfig.register(PanguProMoEConfig.model_type, PanguProMoEConfig, exist_ok=True)
    for auto_class, model in (
        (AutoModel, PanguProMoEModel),
        (AutoModelForCausalLM, PanguProMoEForCausalLM),
        (AutoModelForSequenceClassification, PanguProMoEForSequenceClassification),
    ):
        auto_class.register(PanguProMoEConfig, model, exist_ok=True)
        # `transformers serve` looks a folder's architecture up there; while transformers is being
        # imported it puts another module in its own place
        setattr(sys.modules["transformers"], model.__name__, model)


def _add_bias(rows: Tensor, bias: Tensor, offsets: Tensor) -> Tensor:
    """``rows [N, O]`` plus the ``bias [E, O]`` of each row's expert."""
    # as a product with I = 1: rows need no expert ids, and the gradient of the bias is summed in
    # float32 without atomics
    ones = rows.new_ones(rows.shape[0], 1)
    return rows + grouped_gemm(ones, bias.unsqueeze(-1), offsets)


def _weight(experts: Any, name: str) -> Tensor | QuantizedWeight:
    """``[E, O, I]``."""
    weight: Tensor | FrozenWeight = getattr(experts, name)
    if isinstance(weight, FrozenWeight):
        return weight.weight
    return weight.mT if experts.is_transposed else weight


def experts_forward(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Forward of a transformers experts module, by the flags of ``use_experts_implementation``.

    :func:`moge_ops.grouped_mlp` serves all that a :class:`moge_ops.Activation` can say, with biases
    or without: SiLU, GELU, ReLU and its square, with a gate or without one, halves one after the
    other or interleaved, and gates of a class's own if they are a clamped SwiGLU such as that of
    GPT-OSS. What is left, another ``act_fn``, another ``_apply_gate``, a norm after each expert,
    gets the same products in steps: ``route``, ``permute``, ``grouped_gemm``, activation,
    ``grouped_gemm``, ``unpermute``. Transposed weights are read through their strides in both
    cases.

    A class's own ``_apply_gate`` is called once, on test numbers in float64, before it is replaced.
    It stays, in steps, unless its values and its derivatives are those of one
    :class:`moge_ops.Activation` to 1e-5, relative and absolute; a difference that is smaller is not
    seen. The test call gets the constants ``limit``, ``swiglu_limit``, ``alpha`` and
    ``swiglu_alpha`` of the module, as far as they are numbers, and ``act_fn`` if it is one of those
    above. A gate that reads any other attribute of the module stays, as does one that is set on a
    module instead of its class, one whose numbers are written into its code instead of these
    constants (but for an alpha of 1, and a shift of 0 or 1), and one that raises in the test call.

    Args:
        experts: The module: ``gate_up_proj`` (``up_proj`` without a gate) and ``down_proj``, each
            ``[E, O, I]``, or ``[E, I, O]`` if ``is_transposed``; with ``has_bias`` also their
            ``_bias`` ``[E, O]``. ``has_post_expert_norm`` is False in versions without it. Each
            weight may be a :class:`moge_ops.nn.FrozenWeight`, always ``[E, O, I]``.
        hidden_states: ``[T, H]``.
        top_k_index: ``[T, K]``, int32 | int64. Ids outside ``[0, E)`` are dropped slots, such as
            the id E that marks another rank's experts in expert parallelism. They add nothing, and
            their weights get a gradient of zero.
        top_k_weights: ``[T, K]``, any float dtype.

    Returns:
        ``[T, H]``, dtype of ``hidden_states``. Products run in the dtype of the weights, where both
        are quantised in that of ``hidden_states``, or in that of autocast; the sum over experts
        runs in float32. Deterministic.

    Raises:
        AttributeError: The module does not have these weights.
        TypeError: The weights are quantised by another library. (For its FP8 experts transformers
            itself refuses the name "moge_ops".)
    """
    up = "gate_up_proj" if experts.has_gate else "up_proj"
    w_up, w_down = _weight(experts, up), _weight(experts, "down_proj")
    # quantised weights take any float; the rest of a module has its dtype
    like = (w_down, w_up, getattr(experts, "down_proj_bias", None), hidden_states)
    x = hidden_states.to(next(w.dtype for w in like if isinstance(w, Tensor)))
    routing = route(top_k_index, w_down.shape[0])

    activation = activation_of(experts, w_up.shape[1])
    if activation is not None:
        biases = {}
        if experts.has_bias:
            biases = {
                "b_gate_up": getattr(experts, f"{up}_bias"),
                "b_down": experts.down_proj_bias,
            }
        y = grouped_mlp(x, w_up, w_down, top_k_weights, routing, activation=activation, **biases)
        return y.to(hidden_states.dtype)

    pre = grouped_gemm(permute(x, routing), w_up, routing.offsets)
    if experts.has_bias:
        pre = _add_bias(pre, getattr(experts, f"{up}_bias"), routing.offsets)
    own_gate = gate_of(experts) is not _experts_interface._default_apply_gate
    if experts.has_gate and (own_gate or experts.is_concatenated):
        act = experts._apply_gate(pre)
    elif experts.has_gate:
        act = experts.act_fn(pre[:, ::2]) * pre[:, 1::2]
    else:
        act = experts.act_fn(pre)
    out = grouped_gemm(act.to(pre.dtype), w_down, routing.offsets)  # [N, H]
    if experts.has_bias:
        out = _add_bias(out, experts.down_proj_bias, routing.offsets)
    if getattr(experts, "has_post_expert_norm", False):
        out = experts.post_expert_norm(out)
    return unpermute(out, routing, top_k_weights).to(hidden_states.dtype)


def _grouped_router_forward(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Router of Intern-S1-Pro: logits ``[T, E]``, weights ``[T, K]``, experts ``[T, K]`` int64."""
    G = router.router_n_groups
    logits = F.linear(hidden_states.reshape(-1, router.weight.shape[1]), router.weight)
    gating = grouped_gate(logits, G, router.top_k // G, renormalize=router.norm_topk_prob)
    return logits, gating.weights.to(logits.dtype), gating.experts.long()


def _pangu_block_forward(
    block: Any, hidden_states: Tensor, layer_number: int | None = None
) -> tuple[Tensor, Tensor]:
    """MoE block of Pangu Pro MoE: ``[B, L, H] -> [B, L, H]``, and the logits ``[T, E]``."""
    x = hidden_states.flatten(0, -2)  # [T, H]
    logits = block.gate(x)
    scale = block.router_scale.view(-1)
    gating, routing = gate_and_route(logits, block.num_groups, router_scale=scale)
    # the experts stay modules, which take whole tensors: the host must know their row counts
    rows = torch.split(permute(x, routing), gating.counts.tolist())
    out = torch.cat([expert(part) for expert, part in zip(block.experts, rows, strict=True)])
    y = unpermute(out, routing, gating.weights) + block.shared_expert(x)
    return y.view(hidden_states.shape), logits


def _is_grouped_router(module: nn.Module) -> bool:
    return hasattr(module, "router_n_groups") and isinstance(
        getattr(module, "weight", None), nn.Parameter
    )


def _is_pangu_block(module: nn.Module) -> bool:
    return hasattr(module, "router_scale") and hasattr(module, "experts")


def _misfit_of_grouped_router(router: Any) -> str | None:
    """Why a module cannot be taken for Intern-S1-Pro's router, or None if it can."""
    E, G = router.weight.shape[0], router.router_n_groups
    for name in ("num_experts", "top_k", "norm_topk_prob"):
        if not hasattr(router, name):
            return f"it has no {name}"
    if router.num_experts != E or G < 1 or E % G or router.top_k % G or router.top_k < G:
        return (
            f"num_experts must be the {E} rows of weight and router_n_groups divide it and top_k, "
            f"got num_experts={router.num_experts}, router_n_groups={G}, top_k={router.top_k}"
        )
    if getattr(router, "scoring_func", "softmax") != "softmax":
        return f"scoring_func must be 'softmax', got {router.scoring_func!r}"
    for name in ("bias", "e_score_correction_bias"):
        if getattr(router, name, None) is not None:
            return f"it has {name}"
    if getattr(router, "routed_scaling_factor", 1.0) != 1.0:
        return f"routed_scaling_factor must be 1, got {router.routed_scaling_factor}"
    return None


def _misfit_of_pangu_block(block: Any) -> str | None:
    """Why a module cannot be taken for Pangu Pro MoE's block, or None if it can."""
    for name in ("gate", "num_experts", "num_groups", "top_k", "shared_expert"):
        if not hasattr(block, name):
            return f"it has no {name}"
    E, G = block.num_experts, block.num_groups
    if len(block.experts) != E or block.router_scale.numel() != E:
        return (
            f"it must have num_experts={E} experts and as many router_scale, "
            f"got {len(block.experts)} and {block.router_scale.numel()}"
        )
    if G < 1 or E % G or block.top_k != G:
        return f"num_groups must divide {E} and be top_k={block.top_k}, got {G}"
    return None


_Forward = Callable[..., Any]
# for each kind of module: what recognises one, why one cannot be swapped, and the new forward
_KINDS: tuple[tuple[Callable[[nn.Module], bool], Callable[[Any], str | None], _Forward], ...] = (
    (_is_grouped_router, _misfit_of_grouped_router, _grouped_router_forward),
    (_is_pangu_block, _misfit_of_pangu_block, _pangu_block_forward),
)


def swap_moge_routing(model: nn.Module) -> list[str]:
    """Replaces the eager MoGE routing in a model's remote code by :func:`moge_ops.grouped_gate`.

    Modules are recognised by their attributes, not by their class:

    - A router like Intern-S1-Pro's has ``router_n_groups``, ``weight`` ``[E, H]``, ``num_experts``,
      ``top_k`` and ``norm_topk_prob``. It takes hidden states and returns logits, weights and
      experts: softmax over all experts, the best of each group, renormalised if it says so.
    - A block like Pangu Pro MoE's has ``gate``, ``router_scale``, ``experts`` (one module each),
      ``shared_expert``, ``num_experts``, ``num_groups`` and ``top_k``. It returns its output and
      the logits: softmax, the best of each group, times ``router_scale``. The new forward sorts the
      tokens by expert once, where the old one searches them for every expert, and sums in float32.

    Only the ``forward`` of these modules is replaced: parameters, names and state dict stay. Ties
    go to the lowest expert id.

    Args:
        model: Any module; all its submodules are searched.

    Returns:
        Names of all modules that now route by moge_ops, those of an earlier call included.

    Raises:
        ValueError: There is no such module; or one has these attributes with values that mean
            another routing; or the forward of one has been replaced already, as accelerate's hooks
            do (swap before dispatching). Nothing has been changed then.
    """
    swaps: dict[str, tuple[nn.Module, _Forward]] = {}
    for name, module in model.named_modules():
        for recognises, misfit, forward in _KINDS:
            if not recognises(module):
                continue
            before = vars(module).get("forward")
            if before is not None and getattr(before, "__func__", None) is not forward:
                reason: str | None = "its forward has already been replaced"
            else:
                reason = misfit(module)
            if reason is not None:
                raise ValueError(
                    f"{name or 'the model'} ({type(module).__name__}) cannot route by "
                    f"grouped_gate: {reason}"
                )
            swaps[name] = module, forward
    if not swaps:
        raise ValueError(
            "the model has no MoGE routing that is known here: expected modules with "
            "router_n_groups and weight, or with router_scale and experts, "
            f"got {type(model).__name__}"
        )
    for module, forward in swaps.values():
        module.forward = MethodType(forward, module)
    return list(swaps)
