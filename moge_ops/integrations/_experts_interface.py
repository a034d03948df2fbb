"""What moge_ops relies on in transformers' experts interface, and refusals where it does nothing.

The interface is young, and some of its names are private. What a release has renamed, or added to
the flags of an experts class, must end in an error here, not in wrong tokens.
"""

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from moge_ops.nn import FrozenWeight, MoGE

__all__ = [
    "ALL_EXPERTS_FUNCTIONS",
    "_default_apply_gate",
    "forbid_silence",
    "is_interface",
    "verify",
]

# the first and the last release that the tests ran with
_TESTED = "5.17 to 5.24"
# flags of `use_experts_implementation` that experts_forward knows
_FLAGS = {
    "has_bias",
    "has_gate",
    "has_post_expert_norm",  # since 5.20
    "is_concatenated",
    "is_transposed",
}


def _changed(what: str) -> ImportError:
    return ImportError(
        f"transformers {transformers.__version__} differs from what moge_ops was run with, "
        f"{_TESTED}: {what}; install one of these versions, and tell moge_ops about this one"
    )


try:
    from transformers.integrations.moe import (
        ALL_EXPERTS_FUNCTIONS,
        _default_apply_gate,
        use_experts_implementation,
    )
except ImportError as error:
    raise _changed(str(error)) from error


class _Probe(nn.Module):
    """Experts of no weights, which know how their forward was called."""

    def __init__(self, config: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        raise AssertionError("the probe's own forward is not meant to run")


def verify() -> None:
    """Tries the interface: a registered function gets the decorated module, and its flags.

    Raises:
        ImportError: Not so, or there are flags whose meaning is not known here.
    """
    parameters = inspect.signature(use_experts_implementation).parameters
    unknown = parameters.keys() - _FLAGS - {"experts_class", "experts_interface"}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise _changed(f"use_experts_implementation has flags unknown here, {names}")
    given = dict.fromkeys(sorted(_FLAGS & parameters.keys()), True)
    calls: list[tuple[Any, ...]] = []
    interface = type(ALL_EXPERTS_FUNCTIONS)()
    interface["probe"] = lambda *args: calls.append(args)
    try:
        decorated = use_experts_implementation(
            type("Probe", (_Probe,), {}), experts_interface=interface, **given
        )
        module = decorated(SimpleNamespace(_experts_implementation="probe"))
        inputs = (torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1))
        module(*inputs)
    except (AttributeError, TypeError) as error:
        raise _changed(f"an experts class cannot be made and called ({error})") from error
    if [[id(part) for part in call] for call in calls] != [[id(x) for x in (module, *inputs)]]:
        raise _changed("the registered function is not called with the module and its inputs")
    missing = [flag for flag in given if getattr(module, flag, None) is not True]
    if missing:
        raise _changed(f"experts do not have the flags that they were given, {', '.join(missing)}")
    own_gate = getattr(decorated, "_apply_gate", None) is not _default_apply_gate
    if own_gate or not is_interface(module):
        raise _changed("experts have no _apply_gate or no config")
    absent = [name for name in _ENTRIES if not hasattr(PreTrainedModel, name)]
    if absent:
        raise _changed(f"PreTrainedModel has no {', '.join(absent)}")


def is_interface(module: nn.Module) -> bool:
    """Whether the module's class is decorated with ``use_experts_implementation``."""
    return all(hasattr(module, name) for name in ("_apply_gate", "is_transposed", "config"))


def _is_quantized(module: nn.Module) -> bool:
    return is_interface(module) and any(isinstance(x, FrozenWeight) for x in module.children())


def _asks(value: Any) -> bool:
    return "moge_ops" in (value.values() if isinstance(value, dict) else (value,))


def _config_asks(config: Any) -> bool:
    parts = [config, *(getattr(config, key, None) for key in config.sub_configs)]
    return any(getattr(part, "_experts_implementation", None) == "moge_ops" for part in parts)


def _refuse_silence(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, MoGE):
            return  # runs on moge_ops whatever the option says
        if is_interface(module) and module.config._experts_implementation == "moge_ops":
            return
    raise ValueError(
        f"experts_implementation='moge_ops' would do nothing in {type(model).__name__}: expected a "
        "module whose class transformers decorates with use_experts_implementation, got none. "
        "Leave the option out, and the model runs as it is. For remote code that routes as MoGE "
        "does, there is moge_ops.integrations.transformers.swap_moge_routing; in a model of your "
        "own, call moge_ops.route and moge_ops.grouped_mlp, or build on moge_ops.nn.MoGE"
    )


def _checked_from_pretrained(known: Callable[..., Any]) -> Any:
    @functools.wraps(known)
    def from_pretrained(cls: type[PreTrainedModel], *args: Any, **kwargs: Any) -> Any:
        out = known(cls, *args, **kwargs)
        model = out[0] if isinstance(out, tuple) else out  # output_loading_info
        if _config_asks(model.config):
            _refuse_silence(model)
        return out

    return classmethod(from_pretrained)


def _checked_from_config(known: Callable[..., Any]) -> Any:
    @functools.wraps(known)
    def _from_config(cls: type[PreTrainedModel], *args: Any, **kwargs: Any) -> Any:
        # a composite model makes its parts here too, the vision tower for one, whose config carries
        # the whole model's option: only who names the option gets an answer
        asked = _asks(kwargs.get("experts_implementation"))
        model = known(cls, *args, **kwargs)
        if asked:
            _refuse_silence(model)
        return model

    return classmethod(_from_config)


def _checked_set(known: Callable[..., Any]) -> Any:
    @functools.wraps(known)
    def set_experts_implementation(model: PreTrainedModel, experts_implementation: Any) -> None:
        if not _asks(experts_implementation) and any(map(_is_quantized, model.modules())):
            raise ValueError(
                "experts_implementation must be 'moge_ops' for quantised experts, which no other "
                f"one runs, got {experts_implementation!r}"
            )
        known(model, experts_implementation)
        if _asks(experts_implementation):
            _refuse_silence(model)

    return set_experts_implementation


def _checked_save(known: Callable[..., Any]) -> Any:
    @functools.wraps(known)
    def save_pretrained(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        known_here = getattr(model, "hf_quantizer", None) is not None
        if not known_here and any(isinstance(x, FrozenWeight) for x in model.modules()):
            raise ValueError(
                f"{type(model).__name__} has quantised experts without knowing it, and its files "
                "would not be read again: call quantize_experts on the whole model, not on a part"
            )
        return known(model, *args, **kwargs)

    return save_pretrained


_ENTRIES: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "from_pretrained": _checked_from_pretrained,
    "_from_config": _checked_from_config,
    "save_pretrained": _checked_save,
    "set_experts_implementation": _checked_set,
}
_wrapped: set[str] = set()


def forbid_silence() -> None:
    """Lets transformers refuse the name "moge_ops" for a model that has nothing to run on it, and
    for quantised experts any other name, and files of which only a part knows that it is quantised.

    transformers itself accepts any registered name for any model. The check looks at the model's
    modules, so it comes after loading; it is the same for all entries: ``from_pretrained``,
    ``from_config`` with the option, and ``set_experts_implementation``.
    """
    for name, checked in _ENTRIES.items():
        if name not in _wrapped:
            known = getattr(PreTrainedModel, name)
            setattr(PreTrainedModel, name, checked(getattr(known, "__func__", known)))
            _wrapped.add(name)
