"""Every experts class of transformers, built as small as it gets, and what serves it.

``python tests/hub_experts/experts_classes.py`` writes bench/results/transformers_experts.csv, which
the documentation shows; test_experts_classes.py compares the two.
"""

import csv
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from moge_ops.integrations import _experts_interface
from moge_ops.integrations._experts_activation import _FUNCTIONS, activation_of
from moge_ops.integrations.transformers import _weight
from moge_ops.ops._activation import Activation

CSV = Path(__file__).parents[2] / "bench" / "results" / "transformers_experts.csv"
COLUMNS = ("model", "experts", "activation", "biases", "before", "now", "transformers")
SIZES = {
    4: r"num_experts|num_local_experts|n_routed_experts|moe_num_experts",
    16: r"hidden_size|moe_hidden_size|moe_latent_size",
    12: r"\w*intermediate_size|\w*expert_size|\w*ffn_hidden_size",
}


class Found(NamedTuple):
    model: str
    cls: type
    module: nn.Module

    @property
    def activation(self) -> Activation | None:
        """What serves it now; None where steps do."""
        up = "gate_up_proj" if self.module.has_gate else "up_proj"
        return activation_of(self.module, _weight(self.module, up).shape[1])

    @property
    def before(self) -> str:
        """What served it while the operator knew SwiGLU alone."""
        plain = self.activation == Activation() and not self.module.has_bias
        default = self.cls._apply_gate is _experts_interface._default_apply_gate
        return "fused" if plain and default else "in steps"


def _small(config: PretrainedConfig) -> PretrainedConfig:
    for name, value in list(vars(config).items()):
        for size, pattern in SIZES.items():
            if isinstance(value, int | list | None) and re.fullmatch(pattern, name):
                setattr(config, name, [size] * len(value) if isinstance(value, list) else size)
    config._experts_implementation = "eager"
    config.allow_global_per_layer_attribute_access = True
    return config


def _configs(folder: Path) -> Iterator[PretrainedConfig]:
    for file in sorted(folder.glob("configuration_*.py")):
        name = f"transformers.models.{folder.name}.{file.stem}"
        classes = vars(importlib.import_module(name)).values()
        for cls in classes:
            if isinstance(cls, type) and issubclass(cls, PretrainedConfig):
                if cls.__module__ != name:
                    continue
                try:
                    yield _small(cls())
                except (AttributeError, TypeError, ValueError):
                    continue  # it cannot do without arguments


def _classes(module: ModuleType) -> Iterator[type]:
    source = inspect.getsource(module)
    for name in re.findall(r"^@use_experts_implementation.*\nclass (\w+)", source, re.MULTILINE):
        yield getattr(module, name)


def find(only: str | None = None) -> Iterator[Found]:
    """All of them, in the order of their models' names."""
    root = Path(transformers.__file__).parent / "models"
    for file in sorted(root.glob("*/modeling_*.py")):
        if only is not None and file.parent.name != only:
            continue
        if "\n@use_experts_implementation" not in file.read_text():
            continue
        model = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
        for cls in _classes(model):
            yield Found(file.parent.name, cls, _built(cls, file.parent))


def _built(cls: type, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    for config in _configs(folder):
        try:
            # one is made with a width of its own, that of a kind of tokens
            own = "intermediate_size" in inspect.signature(cls).parameters
            module = cls(config, *([12] if own else []))
        except (AttributeError, TypeError, KeyError, ValueError):
            continue  # the configuration of another part
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        return module.eval()
    raise LookupError(f"no configuration builds {cls.__name__}")


def _words(found: Found) -> str:
    activation = found.activation
    if activation is not None:
        name, gated, interleaved, alpha, limit, shift = activation
        parts = [name if gated else f"{name}, no gate"]
        parts += ["interleaved"] if interleaved else []
        parts += [f"alpha {alpha:g}"] if alpha != 1.0 else []
        parts += [f"limit {limit:g}"] if limit is not None else []
        parts += [f"shift {shift:g}"] if shift else []
        return ", ".join(parts)
    if getattr(found.module, "has_post_expert_norm", False):
        return "norm after each expert"
    act_fn = getattr(found.module, "act_fn", None)
    return "own gate" if type(act_fn) in _FUNCTIONS else type(act_fn).__name__


def rows() -> list[dict[str, Any]]:
    return [
        {
            "model": found.model,
            "experts": found.cls.__name__,
            "activation": _words(found),
            "biases": "yes" if found.module.has_bias else "no",
            "before": found.before,
            "now": "in steps" if found.activation is None else "fused",
            "transformers": transformers.__version__,
        }
        for found in find()
    ]


if __name__ == "__main__":
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())
