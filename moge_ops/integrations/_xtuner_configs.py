"""XTuner's router configs, which put the fused gate into each process that builds from them.

A pickle names the class, so that a process that unpickles such a config imports this file; XTuner's
own config would leave that process with XTuner's own routers.
"""

from typing import Any

from xtuner.v1.module.router import (
    GreedyRouterConfig as _GreedyRouterConfig,
)
from xtuner.v1.module.router import NoAuxRouterConfig as _NoAuxRouterConfig

from moge_ops.integrations.xtuner import register

__all__ = ["GreedyRouterConfig", "NoAuxRouterConfig"]


class GreedyRouterConfig(_GreedyRouterConfig):  # type: ignore[misc]
    """XTuner's config of the same name, which calls ``register()`` before it builds a router."""

    def build(self, n_routed_experts: int, num_experts_per_tok: int) -> Any:
        """XTuner's router, running on moge_ops if ``use_grouped_router`` is set."""
        register()
        return super().build(n_routed_experts, num_experts_per_tok)


class NoAuxRouterConfig(_NoAuxRouterConfig):  # type: ignore[misc]
    """XTuner's config of the same name, which calls ``register()`` before it builds a router."""

    def build(self, n_routed_experts: int, num_experts_per_tok: int) -> Any:
        """XTuner's router, running on moge_ops if ``use_grouped_router`` is set."""
        register()
        return super().build(n_routed_experts, num_experts_per_tok)
