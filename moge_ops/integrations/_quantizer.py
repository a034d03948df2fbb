"""transformers' quantiser of experts: what loads, saves and announces quantised experts.

A plain folder is quantised while it is loaded, one stacked weight at a time; a folder of quantised
experts is loaded as it is. All other weights stay as transformers loads them.
"""

# mypy: allow-untyped-calls

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import ConversionOps, PrefixChange, WeightConverter
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from moge_ops import _checks
from moge_ops.nn import FrozenWeight
from moge_ops.quant import SCHEMES, quantize
from moge_ops.quant._shards import headers
from moge_ops.quant.experts import ExpertWeight, check_loaded, expert_weights, placeholder

__all__ = [
    "METHOD",
    "ExpertsQuantizationConfig",
    "Filled",
    "adopt",
    "experts_from",
    "refuse_other_quantizers",
    "register",
]

METHOD = "moge_ops"
"""``quant_method`` in ``config.json``."""


class ExpertsQuantizationConfig(QuantizationConfigMixin):
    """How the experts of a model are quantised: ``quantization_config`` of ``from_pretrained``.

    Args:
        scheme: One of :data:`moge_ops.quant.SCHEMES`.
        group_size, symmetric: As in :func:`moge_ops.quant.quantize`.
        modules_to_not_convert: Names of modules whose experts stay plain, and of modules that hold
            such.
        quant_method: Always "moge_ops".

    Raises:
        ValueError: Another scheme or ``quant_method``.
        TypeError: A value of another type, or one that is unknown.
    """

    def __init__(
        self,
        scheme: str,
        *,
        group_size: int | None = None,
        symmetric: bool = True,
        modules_to_not_convert: Sequence[str] | None = None,
        quant_method: str = METHOD,
    ) -> None:
        _checks.choice("scheme", scheme, SCHEMES)
        _checks.choice("quant_method", quant_method, (METHOD,))
        if group_size is not None:
            _checks.integer("group_size", group_size, least=1)
        if not isinstance(symmetric, bool):
            raise TypeError(f"symmetric must be a bool, got {symmetric!r}")
        names = modules_to_not_convert
        if names is not None and (
            isinstance(names, str) or not all(isinstance(name, str) for name in names)
        ):
            raise TypeError(f"modules_to_not_convert must be a list of names, got {names!r}")
        self.quant_method = quant_method  # type: ignore[assignment]
        self.scheme, self.group_size, self.symmetric = scheme, group_size, symmetric
        self.modules_to_not_convert = None if names is None else list(names)

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of :func:`moge_ops.quant.quantize`."""
        names = ("scheme", "group_size", "symmetric")
        return {name: getattr(self, name) for name in names}


class _Quantize(ConversionOps):
    """Plain to quantised, when the loader has made a whole stacked weight of a file's tensors.

    What is wrong with a weight goes to ``errors``: the loader would log it, and raise without it.
    """

    def __init__(
        self, weights: dict[str, ExpertWeight], how: dict[str, Any], errors: list[str]
    ) -> None:
        self.weights, self.how, self.errors = weights, how, errors

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Puts a module in place of the parameter, so nothing is left for the loader to set."""
        rest = {}
        for name, value in input_dict.items():
            weight = self.weights.get(name)
            if weight is None:  # made by the same conversion, but no weight of experts
                rest[name] = value
                continue
            plain: Tensor = value[0] if isinstance(value, list) else value
            plain = plain.mT if weight.transposed else plain
            expected = weight.value.shape
            try:
                if plain.shape != expected:
                    raise ValueError(f"weight must be {list(expected)}, got {list(plain.shape)}")
                _settle(weight.put(quantize(plain, halves=weight.halves, **self.how)))
            except (TypeError, ValueError) as error:
                self.errors.append(f"{name}: {error}")
            if missing_keys is not None:
                missing_keys.discard(name)
        return rest


def _settle(frozen: FrozenWeight) -> None:
    """Keeps transformers from drawing random numbers for a weight."""
    frozen._is_hf_initialized = True  # type: ignore[assignment]


class Filled(NamedTuple):
    """A weight of experts that waits for what a folder has."""

    weight: ExpertWeight
    shape: torch.Size  # [E, O, I]
    device: torch.device


experts_from: ContextVar[Callable[[Mapping[str, Filled]], None] | None] = ContextVar(
    "experts_from", default=None
)
"""What puts weights into a model that is loaded in this context, in place of transformers."""


class ExpertsQuantizer(HfQuantizer):
    """Loads and saves models whose experts, and nothing else, are quantised.

    Adapters train on such a model; the experts themselves do not.
    """

    requires_calibration = False
    quantization_config: ExpertsQuantizationConfig

    def __init__(self, quantization_config: ExpertsQuantizationConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.fill = experts_from.get()
        self.pre_quantized = self.pre_quantized or self.fill is not None
        self.serializable = True
        self.weights: dict[str, ExpertWeight] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.errors: list[str] = []

    def __deepcopy__(self, memo: Any) -> "ExpertsQuantizer":
        # a copy of a model needs no reference to the modules that were loaded
        copied = type(self)(self.quantization_config, pre_quantized=self.pre_quantized)
        copied.serializable = self.serializable
        return copied

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Refuses experts on disk, which accelerate would leave there."""
        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise ValueError("device_map must not put quantised experts on disk, got 'disk'")

    def param_needs_quantization(
        self, model: PreTrainedModel, param_name: str, **kwargs: Any
    ) -> bool:
        """Of a plain folder's: whether it is a weight of experts. Of a quantised folder's: whether
        its shape is not the loader's to judge, as the number of scales is the file's.
        """
        name = param_name.rpartition(".")[0] if self.pre_quantized else param_name
        return name in self.weights

    def get_quantize_ops(self) -> ConversionOps:
        """What a plain stacked weight passes through."""
        return _Quantize(self.weights, self.quantization_config.how, self.errors)

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Any = None, **kwargs: Any
    ) -> None:
        if getattr(model.config, "distributed_config", None) is not None:
            raise ValueError(
                "quantised experts are not split: leave tp_plan, distributed_config out"
            )
        config = self.quantization_config
        for weight in expert_weights(model, config.modules_to_not_convert or ()):
            self.weights[weight.name], self.shapes[weight.name] = weight, weight.value.shape
            if self.fill is not None:  # nothing that the loader would miss
                weight.module.register_parameter(weight.attribute, None)
                weight.module._is_hf_initialized = True  # type: ignore[assignment]
                continue
            try:
                empty = placeholder(weight.value.shape, halves=weight.halves, **config.how)
            except ValueError as error:
                raise ValueError(f"{weight.name}: {error}") from None
            if self.pre_quantized:
                _settle(weight.put(empty))
        if self.pre_quantized and checkpoint_files is not None:
            _check_headers(checkpoint_files, self.weights, config)
        _run_on_moge_ops(self.weights.values())

    def update_weight_conversions(self, weight_conversions: list[Any], *model: Any) -> list[Any]:
        """Quantised experts are stored as they are, whatever a plain folder's files look like."""
        found: list[Any] = super().update_weight_conversions(weight_conversions, *model)
        return _without_experts(found, self.weights) if self.pre_quantized else found

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        folder = model.config.name_or_path
        if self.errors:
            raise ValueError(f"{folder}: {self.errors[0]}")
        spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
        if self.fill is not None:
            self._fill(model)
        for name, weight in self.weights.items():
            found: Any = getattr(weight.module, weight.attribute)
            tensors = {name: found}
            if isinstance(found, FrozenWeight):
                tensors = {f"{name}.{part}": x for part, x in found.named_buffers()}
            if self.pre_quantized or not isinstance(found, FrozenWeight):
                # the loader sets this; accelerate, which spreads a model, makes new tensors
                missing = [
                    part
                    for part, x in tensors.items()
                    if x.is_meta
                    or not (spread or self.fill is not None or hasattr(x, "_is_hf_initialized"))
                ]
                if missing:
                    raise ValueError(f"{folder} lacks {', '.join(missing)}")
            if not isinstance(found, FrozenWeight):  # one of several weights of one conversion
                plain: Any = weight.value
                weight.put(quantize(plain, halves=weight.halves, **self.quantization_config.how))
            elif self.pre_quantized:
                try:
                    check_loaded(name, found, self.shapes[name])
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{folder}: {error}") from None
        _save_as_they_are(model, self.weights)
        self.weights, self.shapes = {}, {}  # what keeps modules alive

    def _fill(self, model: PreTrainedModel) -> None:
        assert self.fill is not None
        waiting = {}
        for name, weight in self.weights.items():
            parent = model.get_submodule(weight.layer.rpartition(".")[0])
            device = next((p.device for p in parent.parameters() if not p.is_meta), model.device)
            waiting[name] = Filled(weight, self.shapes[name], device)
        self.fill(waiting)
        for name, weight in self.weights.items():
            found, how = weight.value, self.quantization_config.how
            try:  # what a saved folder is taken for, by its config alone
                empty = placeholder(self.shapes[name], halves=weight.halves, **how)
            except ValueError:
                self.serializable = False
                continue
            self.serializable &= isinstance(found, FrozenWeight) and (
                (found.scheme, found.group_size, found.zero is None)
                == (empty.scheme, empty.group_size, empty.zero is None)
            )

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Whether ``save_pretrained`` works: not where another folder's layers differ."""
        return self.serializable

    @property
    def is_trainable(self) -> bool:
        """Adapters are; Trainer refuses all else, as ``is_qat_trainable`` is false."""
        return True

    @property
    def is_compileable(self) -> bool:
        """``generate`` may compile the model."""
        return True


_CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_FLOAT_CODES = ("F32", "BF16", "F16")


def _check_headers(
    files: Sequence[str], weights: dict[str, ExpertWeight], config: ExpertsQuantizationConfig
) -> None:
    """Raises ValueError if files hold another scheme than the config says.

    The loader itself would convert what is there, and leave out zero points.
    """
    expected: dict[str, tuple[str, ...]] = {}
    for weight in weights.values():
        frozen: Any = weight.value
        scale = _CODES[frozen.scale.dtype]
        expected[f"{weight.attribute}.data"] = (_CODES[frozen.data.dtype],)
        expected[f"{weight.attribute}.scale"] = _FLOAT_CODES if scale == "F32" else (scale,)
        expected[f"{weight.attribute}.zero"] = () if config.symmetric else ("I8",)
    paths = [Path(file) for file in files if str(file).endswith(".safetensors")]
    for name, header in headers(dict.fromkeys(paths)):
        codes = expected.get(".".join(name.split(".")[-2:]))
        if codes is not None and header.code not in codes:
            what = " | ".join(codes) or "absent, as config.json says symmetric"
            raise ValueError(
                f"{header.file}: {name} must be {what} for {config.scheme}, got {header.code}"
            )


def _run_on_moge_ops(weights: Any) -> None:
    """Lets experts with transformers' interface run on moge_ops; the others always do."""
    for weight in weights:
        config = getattr(weight.module, "config", None)
        if config is not None:
            config._experts_implementation = METHOD


def _without_experts(conversions: list[Any], names: Any) -> list[Any]:
    """Conversions of files but those that make, of tensors in files, weights with these names."""

    def makes_experts(conversion: Any) -> bool:
        if not isinstance(conversion, WeightConverter):
            return False
        back = conversion.reverse_transform()
        return any(back.rename_source_key(name)[1] is not None for name in names)

    return [conversion for conversion in conversions if not makes_experts(conversion)]


def _save_as_they_are(model: PreTrainedModel, names: Any) -> None:
    """Keeps ``save_pretrained`` from splitting quantised weights as it would split plain ones."""
    known = getattr(model, "_weight_conversions", None)
    if known is None:  # not loaded by transformers: what save_pretrained would take
        found = get_model_conversion_mapping(model, add_legacy=False)
        known = [conversion for conversion in found if not isinstance(conversion, PrefixChange)]
    model._weight_conversions = _without_experts(known, names)  # type: ignore[assignment]


def _hosts(model: nn.Module) -> Iterator[tuple[str, PreTrainedModel]]:
    """The models of transformers that are in no other one."""
    above: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and not any(
            f"{name}.".startswith(prefix) for prefix in above
        ):
            above.append(f"{name}." if name else "")
            yield name, module


def refuse_other_quantizers(model: nn.Module) -> None:
    """Raises ValueError if transformers has quantised the model by another method."""
    for _, host in _hosts(model):
        quantizer: Any = getattr(host, "hf_quantizer", None)
        if quantizer is not None:
            method = quantizer.quantization_config.quant_method
            raise ValueError(
                f"{type(host).__name__} must not be quantised, got quant_method "
                f"{getattr(method, 'value', method)!r}"
            )


def adopt(model: nn.Module, *, skip: Any = (), **how: Any) -> None:
    """Leaves models of transformers, whose experts were quantised in place, as if so loaded."""
    weights = [w for w in expert_weights(model, skip) if isinstance(w.value, FrozenWeight)]
    _run_on_moge_ops(weights)
    for name, host in _hosts(model):
        prefix = f"{name}." if name else ""
        names = [w.name.removeprefix(prefix) for w in weights if w.name.startswith(prefix)]
        if not names:
            continue
        kept = [entry.removeprefix(prefix) for entry in skip if entry.startswith(prefix)]
        config = ExpertsQuantizationConfig(**how, modules_to_not_convert=kept or None)
        quantizer = ExpertsQuantizer(config, pre_quantized=True)
        host.hf_quantizer = quantizer  # type: ignore[assignment]
        host.is_quantized = True  # type: ignore[assignment]
        host.quantization_method = METHOD  # type: ignore[assignment]
        quantizer.postprocess_model(host)
        _save_as_they_are(host, names)


def register() -> None:
    """Registers the method with transformers; more than one call does no harm."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(METHOD)(ExpertsQuantizer)
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(ExpertsQuantizationConfig)
