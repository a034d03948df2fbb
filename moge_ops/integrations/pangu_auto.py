"""Pangu Pro MoE in transformers' interfaces: configuration, loading, forward, generation."""

# mypy: allow-untyped-calls
# transformers types its arguments, but not all of its methods

import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from moge_ops import _files
from moge_ops.models import checkpoint
from moge_ops.models.pangu_moe import (
    KVCache,
    PanguMoEConfig,
    PanguMoEForCausalLM,
    PanguMoEOutput,
    losses,
)

__all__ = ["PanguCache", "PanguProMoEConfig", "PanguProMoEForCausalLM"]

# what the generation loop calls its cache: `cache` since transformers 5.24, before it
# `past_key_values`; the output class has the same name for it, and is public
_CACHE = (
    "cache"
    if "cache" in {field.name for field in dataclasses.fields(MoeCausalLMOutputWithPast)}
    else "past_key_values"
)

# options that auto classes and pipelines pass along and that do not matter for a local folder
_OF_THE_HUB = {
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "adapter_kwargs",
    "cache_dir",
    "code_revision",
    "force_download",
    "local_files_only",
    "low_cpu_mem_usage",
    "proxies",
    "revision",
    "token",
    "trust_remote_code",
    "use_safetensors",
    "weights_only",
}


class PanguProMoEConfig(PreTrainedConfig):
    """A released ``config.json`` for transformers; keys that are unknown here are kept.

    Raises:
        TypeError, ValueError: As :class:`moge_ops.models.PanguMoEConfig`.
    """

    model_type = "PanguProMoE"
    keys_to_ignore_at_inference = ("past_key_values", "cache")

    def __init__(self, **kwargs: Any) -> None:
        defaults = dataclasses.asdict(PanguMoEConfig())
        del defaults["extra"], defaults["num_groups"]
        of_transformers = {"output_router_logits": False, "tie_word_embeddings": False}
        values = {**defaults, **of_transformers, **kwargs}
        values["num_groups"] = PanguMoEConfig.from_dict(values).num_groups
        super().__init__(**values)


class PanguCache(KVCache):
    """The preallocated cache with what ``generate`` asks of one."""

    is_compileable = False  # `length` is a Python int: a compiled step would be one for each
    # read since transformers 5.24: no layer has a state instead of tokens, none drops tokens
    is_linear = (False,)
    is_croppable = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of a row that are in the cache."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Puts the rows into the order of the beams that go on."""
        used = self.kv[..., : self.length, :]
        used.copy_(used.index_select(2, beam_idx.to(used.device)))


class PanguProMoEForCausalLM(PreTrainedModel, GenerationMixin):
    """The reference model for transformers, which holds it as its attribute ``model``.

    ``generate``, ``pipeline("text-generation")`` and training with labels work as for any model
    there. ``generate`` allocates this project's cache; a plain forward makes none.
    """

    config_class = PanguProMoEConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _input_embed_layer = "embed"

    def __init__(self, config: PanguProMoEConfig) -> None:
        super().__init__(config)
        self.model = PanguMoEForCausalLM(PanguMoEConfig.from_dict(config.to_dict()))
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | Path,
        *,
        config: PanguProMoEConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        **kwargs: Any,
    ) -> "PanguProMoEForCausalLM":
        """Loads a released folder by :func:`moge_ops.models.checkpoint.from_pretrained`.

        Args:
            folder: Holds ``config.json`` and safetensors files.
            config: The folder's configuration, if the caller has read it.
            dtype, torch_dtype: Dtype of the weights; that of the files if None or "auto".
            device_map: One device, or ``{"": device}``; the CPU if None.
            kwargs: Options for downloads, which are ignored.

        Raises:
            ValueError: There is no such folder, or it is damaged; ``device_map`` is not one device;
                ``config`` differs from the folder's; or an option is not supported here.
        """
        if unknown := sorted(k for k in kwargs.keys() - _OF_THE_HUB if kwargs[k] is not None):
            raise ValueError(f"options that are not supported: {', '.join(unknown)}")
        if not Path(folder).is_dir():
            raise ValueError(f"expected a local folder of released files, got {str(folder)!r}")
        device = device_map or "cpu"
        if isinstance(device_map, dict) and device_map.keys() == {""}:
            device = device_map[""]
        try:
            device = torch.device(device)
        except (RuntimeError, TypeError):
            raise ValueError(f"device_map must be one device, got {device_map!r}") from None
        dtype = torch_dtype if dtype is None else dtype
        if isinstance(dtype, str):
            dtype = None if dtype == "auto" else getattr(torch, dtype)

        inner = checkpoint.from_pretrained(folder, dtype=dtype, device=device)
        config = copy.deepcopy(config) or PanguProMoEConfig.from_pretrained(folder)
        asked = PanguMoEConfig.from_dict(config.to_dict())
        for field in dataclasses.fields(PanguMoEConfig):
            got, want = getattr(asked, field.name), getattr(inner.config, field.name)
            if field.name != "extra" and got != want:
                raise ValueError(f"{field.name} must be the folder's, {want!r}, got {got!r}")
        config.dtype = inner.embed.weight.dtype
        config.name_or_path = str(folder)
        with torch.device("meta"):
            model = cls(config)
        model.model = inner
        settings = Path(folder) / "generation_config.json"
        if settings.exists():
            # what is no object of a bearable size is refused before transformers reads it
            _files.read_object(settings, checkpoint.MOST_CONFIG)
            model.generation_config = GenerationConfig.from_pretrained(folder)
        model.eval()
        return model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: None = None,
        max_shard_size: int | str = "5GB",
        **kwargs: Any,
    ) -> None:
        """Writes the released layout, by :func:`moge_ops.models.checkpoint.save_pretrained`.

        Raises:
            ValueError: An option is not supported here.
        """
        options = {"state_dict": state_dict, **kwargs}
        if unknown := sorted(name for name, value in options.items() if value):
            raise ValueError(f"options that are not supported: {', '.join(unknown)}")
        if is_main_process:
            checkpoint.refuse_weights(Path(save_directory))
            with _files.staged(Path(save_directory), last="config.json") as stage:
                checkpoint.save_pretrained(self.model, stage, max_shard_size=max_shard_size)
                self.generation_config.save_pretrained(stage)

    def get_output_embeddings(self) -> torch.nn.Module:
        """The head, ``[V, H]``."""
        head: torch.nn.Module = self.model.lm_head
        return head

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> torch.nn.Embedding:
        """The embedding. The vocabulary keeps the size that it has in the checkpoint.

        Raises:
            ValueError: ``new_num_tokens`` is another size.
        """
        size = self.model.config.vocab_size
        if new_num_tokens not in (None, size):
            raise ValueError(f"new_num_tokens must be vocab_size={size}, got {new_num_tokens}")
        embedding: torch.nn.Embedding = self.model.embed
        return embedding

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        if generation_config.use_cache is False or model_kwargs.get(_CACHE) is not None:
            return
        rows = batch_size * max(generation_config.num_beams, generation_config.num_return_sequences)
        model_kwargs[_CACHE] = PanguCache(
            self.model.config, rows, max_cache_length, device=self.device, dtype=self.dtype
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of the next step: what ``forward`` takes, of what all the versions 5 offer.

        Raises:
            RuntimeError: The loop left out the tokens that a cache should hold, but has no cache
                here: a release of transformers that keeps it under yet another name.
        """
        mixin: Any = super()
        inputs = mixin.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        taken = inspect.signature(self.forward).parameters
        inputs = {name: value for name, value in inputs.items() if name in taken}
        if inputs.get(_CACHE) is None and inputs["input_ids"].shape[1] < input_ids.shape[1]:
            raise RuntimeError(
                f"transformers {transformers.__version__} passes the last tokens only, expected "
                f"the cache as {_CACHE!r} beside them, got none: call generate(use_cache=False), "
                "and tell moge_ops about this version"
            )
        return inputs

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: PanguCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        cache: PanguCache | None = None,
    ) -> MoeCausalLMOutputWithPast | tuple[Any, ...]:
        """As :meth:`moge_ops.models.PanguMoEForCausalLM.forward`, in transformers' terms.

        Args:
            input_ids: ``[B, L]``.
            attention_mask: ``[B, S]``, 0 at padding; S counts the cached tokens too.
            past_key_values, cache: Tokens before these, under either name of transformers; these
                are added to it.
            labels: ``[B, L]``, -100 where there is none; adds ``loss``, the cross-entropy of the
                next token plus ``router_aux_loss_coef`` times the load-balance loss.
            use_cache: Ignored: a cache is used where one is given.
            output_hidden_states, output_router_logits, return_dict: As everywhere in transformers.
            logits_to_keep: Number of last tokens whose logits are returned; 0 for all.

        Raises:
            TypeError: A cache of another class.
            ValueError: As the model's forward.
        """
        cache = past_key_values if cache is None else cache
        if cache is not None and not isinstance(cache, PanguCache):
            raise TypeError(f"past_key_values must be a PanguCache, got {type(cache).__name__}")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        details: PanguMoEOutput = self.model(
            input_ids,
            attention_mask,
            cache,
            logits_to_keep=logits_to_keep,
            return_details=True,
        )
        loss = aux_loss = None
        if labels is not None:
            cross_entropy, aux_loss = losses(details, labels, attention_mask)
            loss = cross_entropy + float(self.model.config.router_aux_loss_coef) * aux_loss
        out = MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=details.logits,
            hidden_states=tuple(details.hidden_states) if output_hidden_states else None,
            router_logits=tuple(details.router_logits) if output_router_logits else None,  # type: ignore[arg-type]
        )
        if cache is not None:
            out[_CACHE] = cache
        return out.to_tuple() if return_dict is False else out
