"""A layer and a model that tests of surgery cut smaller."""

from typing import Any

import torch
from torch import Tensor

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import MoGE

H, F, E, G, S = 24, 48, 12, 3, 32


def a_layer(k: int = 2, **options: Any) -> MoGE:
    torch.manual_seed(0)
    layer = MoGE(H, F, E, G, k, **{"selection_bias": True, "shared_size": S, **options})
    with torch.no_grad():
        for x in (layer.router_scale, layer.bias):
            if isinstance(x, Tensor):
                x.uniform_(0.5, 1.5)
    return layer.double()


def small_config(**changes: Any) -> PanguMoEConfig:
    sizes = {
        **{"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"num_key_value_heads": 1, "num_experts": E, "num_experts_per_tok": 3, "num_groups": 3},
        **{"moe_intermediate_size": F, "shared_expert_intermediate_size": S},
        **{"max_position_embeddings": 64, "initializer_range": 0.3, "eos_token_id": None},
    }
    return PanguMoEConfig(**{**sizes, **changes})


def a_model(**changes: Any) -> PanguMoEForCausalLM:
    torch.manual_seed(0)
    return PanguMoEForCausalLM(small_config(**changes))


def some_ids(rows: int = 2) -> Tensor:
    return torch.randint(0, 40, (rows, 12), generator=torch.Generator().manual_seed(1))
