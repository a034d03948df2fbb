"""Pangu Pro MoE's forward in numpy, from the published formulas, one token and expert at a time.

It shares nothing with the package: it reads the released tensor names and the released config's
keys. It computes in float64, except for the rotation angles, which the model defines in float32.
test_pangu_moe.py runs it.

Source: Tang et al. 2025 (arXiv:2505.21411), section 2; RoPE: Su et al. 2021 (arXiv:2104.09864),
the pairs of GPT-NeoX; RMSNorm: Zhang and Sennrich 2019 (arXiv:1910.07467).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def swiglu_mlp(x: Array, gate: Array, up: Array, down: Array) -> Array:
    g = gate @ x
    return down @ (g / (1.0 + np.exp(-g)) * (up @ x))


def rope(x: Array, theta: float) -> Array:
    """``[L, D]``: pair i turns by ``position * theta^(-2i/D)``."""
    L, D = x.shape
    frequency = (1.0 / theta ** (np.arange(0, D, 2, dtype=np.float32) / np.float32(D))).astype("f4")
    angle = (np.arange(L, dtype=np.float32)[:, None] * frequency).astype(np.float64)
    a, b = x[:, : D // 2], x[:, D // 2 :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x: Array, w: Mapping[str, Array], config: Mapping[str, Any]) -> Array:
    """``[L, H]``; head h reads the keys and values of head h // (A / C)."""
    L, H = x.shape
    A, C = config["num_attention_heads"], config["num_key_value_heads"]
    D = H // A
    q, k, v = (x @ w[f"{n}_proj.weight"].T + w[f"{n}_proj.bias"] for n in "qkv")
    heads = []
    for h in range(A):
        c = h // (A // C)
        queries = rope(q[:, h * D : (h + 1) * D], config["rope_theta"])
        keys = rope(k[:, c * D : (c + 1) * D], config["rope_theta"])
        scores = queries @ keys.T / np.sqrt(D)
        scores[np.triu_indices(L, 1)] = -np.inf
        heads.append(softmax(scores) @ v[:, c * D : (c + 1) * D])
    return np.concatenate(heads, -1) @ w["o_proj.weight"].T + w["o_proj.bias"]


def moge(
    x: Array, w: Mapping[str, Array], config: Mapping[str, Any]
) -> tuple[Array, Array, list[list[int]], list[list[float]]]:
    """``[L, H]``: outputs, router logits, chosen experts, and their scores before router_scale."""
    E, G = config["num_experts"], config.get("num_groups", 8)
    k, P = config["num_experts_per_tok"] // G, E // G
    outputs, all_logits, all_experts, all_scores = [], [], [], []
    for token in x:
        logits = w["gate.weight"] @ token
        scores = softmax(logits)
        y = np.zeros_like(token)
        if config["shared_expert_intermediate_size"]:
            shared = (w[f"shared_expert.{n}_proj.weight"] for n in ("gate", "up", "down"))
            y = y + swiglu_mlp(token, *shared)
        chosen: list[int] = []
        for g in range(G):
            members = range(g * P, (g + 1) * P)
            chosen += sorted(members, key=lambda e: (-scores[e], e))[:k]
        for e in chosen:
            matrices = (w[f"experts.{e}.{n}_proj.weight"] for n in ("gate", "up", "down"))
            y = y + swiglu_mlp(token, *matrices) * scores[e] * w["router_scale"][0, e]
        outputs.append(y)
        all_logits.append(logits)
        all_experts.append(chosen)
        all_scores.append([float(scores[e]) for e in chosen])
    return np.array(outputs), np.array(all_logits), all_experts, all_scores


def part(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}


def forward(
    tensors: Mapping[str, Array], config: Mapping[str, Any], input_ids: Array
) -> dict[str, Array]:
    """Ids ``[B, L]`` to logits, hidden states and, per layer, what its router did, ``[T, ...]``."""
    tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
    eps, layers = config["rms_norm_eps"], config["num_hidden_layers"]
    rows = []
    for ids in input_ids:
        x = tensors["model.embed_tokens.weight"][ids]  # [L, H]
        states, routers = [x], []
        for i in range(layers):
            w = part(tensors, f"model.layers.{i}.")
            normed = rms_norm(x, w["input_layernorm.weight"], eps)
            x = x + attention(normed, part(w, "self_attn."), config)
            normed = rms_norm(x, w["post_attention_layernorm.weight"], eps)
            y, *router = moge(normed, part(w, "mlp."), config)
            x = x + y
            states.append(x)
            routers.append(router)
        states[-1] = rms_norm(x, tensors["model.norm.weight"], eps)
        rows.append((states[-1] @ tensors["lm_head.weight"].T, states, routers))

    def per_layer(j: int) -> Array:
        return np.array([np.concatenate([row[2][i][j] for row in rows]) for i in range(layers)])

    return {
        "logits": np.array([row[0] for row in rows]),
        "hidden_states": np.array([row[1] for row in rows]).swapaxes(0, 1),
        "router_logits": per_layer(0),
        "selected_experts": per_layer(1),
        "routing_weights": per_layer(2),
    }
