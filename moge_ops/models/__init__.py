"""Thin reference models, one file each."""

from moge_ops.models.pangu_moe import KVCache, PanguMoEConfig, PanguMoEForCausalLM, PanguMoEOutput

__all__ = ["KVCache", "PanguMoEConfig", "PanguMoEForCausalLM", "PanguMoEOutput"]
