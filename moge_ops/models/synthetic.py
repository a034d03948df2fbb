"""Random models of a given size with Pangu Pro MoE's proportions, tensor by tensor."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from moge_ops.models.layout import parameter_counts, released_shapes
from moge_ops.models.pangu_moe import PanguMoEConfig

__all__ = ["config_of_size", "random_tensors"]

LEAST, MOST = 10**6, 10**12  # parameters
ALLOWED = 0.08  # largest relative difference to the number that was asked for
LAYERS, WIDTH = 48 / 5120, 1344 / 5120  # of the 72B model: layers and F, for each unit of H


def config_of_size(parameters: float, **settings: Any) -> PanguMoEConfig:
    """A configuration of about ``parameters`` parameters that has the shape of Pangu Pro MoE.

    It has 64 experts in 8 groups, of which a token takes 8; a shared expert of width 4F; heads of
    width 128, or of 64 if H is no multiple of 128; and as many key heads as divide the heads and
    are nearest to a fifth of them. H is a multiple of 64 and F one of 64, as groups of a quantised
    row are, or of 16 where H is below 512. Among all sizes that come within 8 % of the number,
    those are taken whose layers / H and F / H are nearest to those of the 72B model, 48 / 5120 and
    1344 / 5120: the sum of the two ratios' absolute logarithms is least.

    Args:
        parameters: From 10^6 to 10^12.
        settings: Other fields of the configuration, such as ``vocab_size``, which counts.

    Raises:
        ValueError: ``parameters`` is out of range, or too small for the vocabulary.
    """
    if not LEAST <= parameters <= MOST:
        raise ValueError(f"parameters must be from {LEAST:.0e} to {MOST:.0e}, got {parameters:g}")
    best: tuple[float, PanguMoEConfig] | None = None
    # a layer has about 56 H^2 parameters
    nearest = (parameters / (56 * LAYERS)) ** (1 / 3) / 64
    for H in range(64 * max(1, int(nearest * 0.8) - 1), 64 * (int(nearest * 1.25) + 2), 64):
        for L in range(max(2, int(0.8 * LAYERS * H)), int(1.25 * LAYERS * H) + 8):
            unit = 64 if H >= 512 else 16
            none, one = (parameter_counts(_config(H, L, n * unit, settings))[0] for n in (1, 2))
            F = unit * max(1, 1 + round((parameters - none) / (one - none)))
            config = _config(H, L, F, settings)
            if abs(parameter_counts(config)[0] / parameters - 1) > ALLOWED:
                continue
            bent = abs(math.log(F / H / WIDTH)) + abs(math.log(L / H / LAYERS))
            if best is None or bent < best[0]:
                best = bent, config
    if best is None:
        V = _config(64, 2, 16, settings).vocab_size
        raise ValueError(
            f"parameters must leave some beside vocab_size={V} tokens, got {parameters:g}"
        )
    return best[1]


def _config(H: int, L: int, F: int, settings: dict[str, Any]) -> PanguMoEConfig:
    heads = H // (64 if H % 128 else 128)
    keys = min((n for n in range(1, heads + 1) if heads % n == 0), key=lambda n: abs(n - heads / 5))
    return PanguMoEConfig(
        hidden_size=H,
        num_hidden_layers=L,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        moe_intermediate_size=F,
        shared_expert_intermediate_size=4 * F,
        **settings,
    )


def random_tensors(
    config: PanguMoEConfig, dtype: torch.dtype, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the released layout, one after another: name and random values.

    Matrices have the deviation ``initializer_range``, the embedding has 1, which is wide as in a
    trained model: tokens that are nearly alike would all get the same experts. Norms and scales
    are 1, biases 0.

    The same seed gives the same tensors, whatever the number of threads.
    """
    random = torch.Generator().manual_seed(seed)
    for name, shape in released_shapes(config):
        if name.endswith("bias"):
            yield name, torch.zeros(shape, dtype=dtype)
        elif name.endswith(("norm.weight", "router_scale")):
            yield name, torch.ones(shape, dtype=dtype)
        else:
            std = 1.0 if name == "model.embed_tokens.weight" else config.initializer_range
            yield name, torch.empty(shape, dtype=dtype).normal_(std=std, generator=random)
