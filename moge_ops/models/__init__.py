"""Thin reference models, one file each."""

from moge_ops.models.cache import KVCache
from moge_ops.models.pangu_moe import PanguMoEConfig, PanguMoEForCausalLM, PanguMoEOutput

__all__ = ["KVCache", "PanguMoEConfig", "PanguMoEForCausalLM", "PanguMoEOutput"]
