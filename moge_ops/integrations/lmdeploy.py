"""LMDeploy: groups of experts routed by the fused gate.

:func:`register`, called before the engine is made, is all; or start LMDeploy's command line by
``python -m moge_ops.integrations.lmdeploy``. ``MOGE_OPS_LMDEPLOY=0`` switches it off. The engine's
functions are those of LMDeploy 0.18.0; ``docs/engines/lmdeploy.md`` says what was run.

Workers are processes of their own. Each executes the file that ``ModelConfig.custom_module_map``
names before it builds the model (models/patch.py, update_custom_module_map): it is this one.
"""

import functools
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from moge_ops.integrations import _engines

__all__ = ["MODULE_MAP_FILE", "register"]

MODULE_MAP_FILE = __file__
"""What ``custom_module_map`` takes."""
MODULE_MAP: dict[str, str] = {}  # LMDeploy wants one; no model's class is replaced
CHOOSER = ("lmdeploy.pytorch.backends.default.moe", "DefaultSoftmaxTopKImpl")
CONFIG = ("lmdeploy.pytorch.config", "ModelConfig")

Routed = tuple[Tensor, Tensor]


@functools.cache  # the process that makes the engine may be a worker too
def register() -> None:
    """Lets the fused gate choose where a model has groups, in this process and in its workers.

    More than one call does no harm, and nothing is raised: where LMDeploy is not as this package
    knows it, there is one warning, and LMDeploy runs as without this package.
    """
    if not _engines.wanted("lmdeploy"):
        return
    try:
        made = ["self", "top_k", "dim", "n_groups"]
        _engines.own_method(*CHOOSER, "__init__", parameters=made)
        forward = _engines.own_method(*CHOOSER, "forward", parameters=["self", "x"])
        read = _engines.own_method(*CONFIG, "from_pretrained")
        chooser, config = _engines.own_class(*CHOOSER), _engines.own_class(*CONFIG)
        if "custom_module_map" not in inspect.signature(config).parameters:
            raise LookupError(f"{'.'.join(CONFIG)} has no custom_module_map to tell its workers")
    except LookupError as error:
        _engines.leave("LMDeploy", "lmdeploy", str(error))
        return
    chooser.forward = _fused(forward)
    config.from_pretrained = classmethod(_telling(read))
    _engines.logger.info("moge_ops: the fused gate routes models with router_n_groups.")


def _fused(original: Any) -> Any:
    @functools.wraps(original)
    def forward(self: Any, x: Tensor) -> Routed:
        """The method's own contract: float32 weights as softmax gives them, and int64 ids.

        The experts' side divides the weights by their sum (_renormalize of nn/moe/base.py and of
        kernels/cuda/moe), and asserts int64 ids where it is parallel (backends/cuda/moe).
        """
        if self.n_groups <= 0 or x.ndim != 2 or self.dim not in (-1, 1):
            return original(self, x)  # type: ignore[no-any-return]
        gating = _engines.choose(x, self.n_groups, self.top_k, renormalize=False)
        return gating.weights.float(), gating.experts.long()

    return forward


def _telling(original: Any) -> Any:
    """Names this file in the config that goes to every worker.

    LMDeploy 0.18.0 puts PytorchEngineConfig.custom_module_map into its MiscConfig, while the
    workers look for it in ModelConfig, where nothing puts it.
    """

    @functools.wraps(original)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(cls, *args, **kwargs)
        if config.custom_module_map is None:
            config.custom_module_map = MODULE_MAP_FILE
        return config

    return from_pretrained


if __name__ != "moge_ops.integrations.lmdeploy":  # executed as a module map, or by python -m
    # LMDeploy has put this folder on sys.path, where vllm.py or transformers.py would be taken for
    # the packages of these names wherever those are not installed.
    while str(Path(__file__).parent) in sys.path:
        sys.path.remove(str(Path(__file__).parent))
    importlib.import_module("moge_ops.integrations.lmdeploy").register()
    if __name__ == "__main__":
        importlib.import_module("lmdeploy.cli").run()
