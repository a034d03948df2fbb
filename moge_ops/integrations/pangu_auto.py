"""Pangu Pro MoE in transformers' interfaces, on the layers of the reference model.

Caches, masks, generation, loading and saving are transformers' own; the layers, and the layout of
the released files, are those of :mod:`moge_ops.models`.
"""

# mypy: allow-untyped-calls
# transformers types its arguments, but not all of its methods

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import (
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from moge_ops import _checks
from moge_ops.integrations import _pangu_files
from moge_ops.models import checkpoint
from moge_ops.models.cache import rotation
from moge_ops.models.layout import check_activations
from moge_ops.models.pangu_moe import (
    IGNORED,
    Attention,
    Context,
    Layer,
    Norm,
    PanguMoEConfig,
    balance,
    of_layers,
    predicted,
)
from moge_ops.nn import MoGE

__all__ = [
    "PanguProMoEConfig",
    "PanguProMoEForCausalLM",
    "PanguProMoEForSequenceClassification",
    "PanguProMoEModel",
    "PanguProMoEModelOutput",
]

# what transformers calls a cache in arguments and outputs: `cache` since 5.24
_CACHE = next(
    (
        name
        for name in ("cache", "past_key_values")
        if name in {field.name for field in dataclasses.fields(MoeModelOutputWithPast)}
    ),
    "",
)
if not _CACHE:
    raise ImportError(
        f"transformers {transformers.__version__} has no cache in MoeModelOutputWithPast under a "
        "name that is known here, 'cache' or 'past_key_values', so that generation would go on "
        "without earlier tokens: install a version from 5.17 to 5.24, which were run"
    )

# they repeat position_ids for some attention functions, which get them
_OF_PACKING = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
_INSTEAD = {
    "token_type_ids": "call the tokenizer with return_token_type_ids=False, as there is one type",
    "cache_position": "pass position_ids; where a cache goes on, it knows itself",
    "head_mask": "set the columns of attention.o to zero",
}


def _refuse(arguments: Mapping[str, Any]) -> None:
    """Raises TypeError for arguments that would be ignored."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            instead = _INSTEAD.get(name, "leave it out")
            raise TypeError(f"PanguProMoE cannot honour the argument {name!r}: {instead}")


class PanguProMoEConfig(PreTrainedConfig):
    """A released ``config.json`` for transformers; keys that are unknown here are kept.

    The classes here have no heads that predict further tokens, so that the number of these,
    ``num_nextn_predict_layers``, is dropped.

    Raises:
        TypeError, ValueError: As :class:`moge_ops.models.PanguMoEConfig`.
    """

    model_type = "PanguProMoE"
    # an evaluation that predicts gathers the rest
    keys_to_ignore_at_inference = [
        "past_key_values",
        "cache",
        "aux_loss",
        "router_logits",
    ]

    def __init__(self, **kwargs: Any) -> None:
        defaults = dataclasses.asdict(PanguMoEConfig())
        del defaults["extra"], defaults["num_groups"]
        of_transformers = {
            "output_router_logits": False,
            "pad_token_id": None,
            "tie_word_embeddings": False,
        }
        values = {**defaults, **of_transformers, **kwargs}
        values["num_groups"] = PanguMoEConfig.from_dict(values).num_groups
        del values["num_nextn_predict_layers"]
        if values.get("rope_scaling") is None:  # the base class warns of its name
            values.pop("rope_scaling", None)
        # what the base class would take for an option of generation
        self.use_cache = values.pop("use_cache", True)
        super().__init__(**values)

    @property
    def head_dim(self) -> int:
        """D, width of a head."""
        return int(self.hidden_size // self.num_attention_heads)


@dataclasses.dataclass
class PanguProMoEModelOutput(MoeModelOutputWithPast):
    """What :class:`PanguProMoEModel` returns.

    Attributes:
        router_experts: Ids ``[T, K]`` that each layer's router chose, with ``router_logits``.
        token_mask: ``[B, L]``, false at padding, for the heads in this file.
    """

    router_experts: tuple[Tensor, ...] | None = None
    token_mask: Tensor | None = None


def _eager(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    dropout: float,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in steps, which has the probabilities ``[B, A, L, S]``."""
    k, v = (x.repeat_interleave(attention.num_key_value_groups, 1) for x in (k, v))
    scores = q @ k.mT * scaling
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    acc = torch.promote_types(scores.dtype, torch.float32)
    weights = F.dropout(scores.softmax(-1, dtype=acc).to(q.dtype), dropout, attention.training)
    return (weights @ v).transpose(1, 2), weights


def _attend(
    interface: Any,
    packing: dict[str, Any],
    attentions: list[Tensor] | None,
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """One of transformers' attention functions, as a :class:`Context` has it."""
    dropout = attention.dropout if attention.training else 0.0
    scaling = attention.head_dim**-0.5
    y: Tensor
    y, weights = interface(attention, q, k, v, mask, dropout=dropout, scaling=scaling, **packing)
    if attentions is not None:
        attentions.append(weights)
    return y


class PanguProMoEPreTrainedModel(PreTrainedModel):
    """What the classes of this model share."""

    config_class = PanguProMoEConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ["Layer"]
    _skip_keys_device_placement = ["cache"]  # of the layers
    _input_embed_layer = "embed"

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As everywhere in transformers, but a damaged folder is an error and no pickle is read.

        Where a folder holds a language model in the released layout, names, shapes and dtypes in
        all files are checked against ``config.json`` first, as
        :func:`moge_ops.models.checkpoint.from_pretrained` does. Parameters of a local folder keep
        the dtypes that its files have, a float32 router beside bfloat16 experts too; ``dtype`` is
        for all of them, but for routers whose config has a ``router_dtype``.

        Raises:
            ValueError: The folder is damaged, tensors are missing, or ``use_safetensors=False``.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("use_safetensors must not be False: no pickle is read")
        name, state = pretrained_model_name_or_path, kwargs.get("state_dict")
        if name is None:  # with config and state_dict, as everywhere
            checks = _pangu_files.mixed(kwargs.get("config"), state, kwargs)
        else:
            checks = _pangu_files.checked(Path(name, kwargs.get("subfolder") or ""), kwargs)
        with checks:
            options = {**kwargs, "use_safetensors": True, "output_loading_info": True}
            loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        model, info = loaded
        # the head of a classifier is new where the folder is that of a language model
        missing = sorted(name for name in info["missing_keys"] if name != "score.weight")
        if missing:
            names = ", ".join(missing[: checkpoint.MOST_SHOWN])
            raise ValueError(f"{pretrained_model_name_or_path} lacks {names}")
        return loaded if kwargs.get("output_loading_info") else model

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *args: Any, **kwargs: Any
    ) -> None:
        """As everywhere in transformers: the released layout, or with
        ``save_original_format=False`` this model's own. A folder may have been saved to before.
        """
        check_activations(self)
        before = _pangu_files.written(Path(save_directory))
        super().save_pretrained(save_directory, *args, **kwargs)
        after = _pangu_files.written(Path(save_directory))
        stale = [path for path, version in after.items() if before.get(path) == version]
        # transformers leaves the one file of an earlier save beside several, and the index of
        # several beside one, and may load that. A variant or an adapter replaces neither
        if len(stale) == 1 and len(after) == 2:
            stale[0].unlink()

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        return {**super()._get_dtype_plan(dtype), **_pangu_files.stored.get()}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MoGE):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "router_scale":
                    initialization.ones_(parameter)
                else:
                    initialization.normal_(parameter, std=self.config.initializer_range)


class PanguProMoEModel(PanguProMoEPreTrainedModel):
    """The layers without a head: ``[B, L] -> last_hidden_state [B, L, H]``."""

    def __init__(self, config: PanguProMoEConfig) -> None:
        super().__init__(config)
        # transformers makes it a set of the instance, into which the classes above take it
        heads = _pangu_files.names_of_heads(config.num_hidden_layers)
        self._keys_to_ignore_on_load_unexpected = ["lm_head.weight", heads]
        sizes = PanguMoEConfig.from_dict(config.to_dict())
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(sizes, i) for i in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.register_load_state_dict_pre_hook(_pangu_files.load_released)
        self.post_init()

    def _context(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Any,
        attend: Any,
    ) -> Context:
        B, L, _ = x.shape
        past = 0 if cache is None else cache.get_seq_length()
        if not torch.compiler.is_compiling():
            past = int(past)  # a tensor in a static cache
        places = torch.arange(L, device=x.device)
        given, rows = position_ids, None
        if attention_mask is not None and attention_mask.ndim == 2:
            if not torch.compiler.is_compiling():
                _checks.shape("attention_mask", attention_mask, "[B, S]", (B, past + L))
            rows = attention_mask[:, -L:].bool()
            if position_ids is None:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -L:]
        elif attention_mask is not None:
            # `generate` makes it for a static cache: only padding does not see itself
            seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
            at = (places + past).view(1, L, 1).expand(len(seen), L, 1)
            rows = seen[:, 0].expand(-1, L, -1).gather(-1, at).squeeze(-1).expand(B, L)
        if position_ids is None:
            position_ids = (places + past).unsqueeze(0)
        if position_ids.shape not in ((1, L), (B, L)):
            got = list(position_ids.shape)
            raise ValueError(f"position_ids must be [B or 1, L] = [{B} or 1, {L}], got {got}")
        if given is not None:
            again = given.diff(dim=-1) <= 0  # a token begins a sequence, or one of them is padding
            if rows is not None:
                again = again & rows[:, 1:] & rows[:, :-1]
            # where each token stands in its own sequence: transformers takes any step but one for
            # the beginning of another, and looks at positions only without a mask and a cache
            begins = F.pad(again, (1, 0))
            given = places - torch.where(begins, places, 0).cummax(-1).values
            if not torch.compiler.is_compiling() and again.any():
                if past or (rows is not None and not rows.all()):
                    raise ValueError(
                        "position_ids must not start again beside padding or cached tokens, got "
                        "packed sequences: pack without padding, into an empty cache or none"
                    )
                attention_mask = rows = cache = None
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            position_ids=given,
            **{_CACHE: cache},
        )
        return Context(*rotation(position_ids, self.config, x.dtype), mask, rows, (B, L), attend)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        return_dict: bool | None = None,
        cache: Any = None,
        routing: Tensor | Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> PanguProMoEModelOutput | tuple[Any, ...]:
        """As every decoder of transformers.

        Args:
            input_ids: ``[B, L]``; or ``inputs_embeds`` ``[B, L, H]``.
            attention_mask: ``[B, S]``, 0 at padding; S counts the cached tokens too. Or a mask of
                four dimensions that ``attn_implementation`` takes as it is.
            position_ids: ``[B or 1, L]``. Where they start again (packing), a new sequence begins,
                which does not see those before it; there must be no padding and no cached token
                then. By default the places among the tokens that ``attention_mask`` keeps.
            past_key_values, cache: A cache of transformers with the tokens before these, under
                either of its names; these are added.
            use_cache: Whether to return a cache. By default the config's; but none in training.
            output_attentions: Needs ``attn_implementation="eager"``.
            output_hidden_states, output_router_logits, return_dict: As everywhere in transformers.
            routing: The experts that every token takes, as a rollout chose them:
                ``[B, L, layers, K]``, or ``router_experts`` of another output, as in
                :meth:`moge_ops.models.PanguMoEForCausalLM.forward`.
            kwargs: ``cu_seq_lens_q`` and its kind, which collators put beside ``position_ids`` and
                some attention functions read; they must say the same.

        Raises:
            TypeError: An argument that would be ignored; the message says what to use instead.
            ValueError: Both or neither of ``input_ids`` and ``inputs_embeds``; a mask or positions
                of another shape; packing beside padding, or another than ``cu_seq_lens_q`` or
                ``seq_idx`` say; probabilities of an attention function that has none.
        """
        config = self.config
        packing = {name: kwargs.pop(name) for name in _OF_PACKING if name in kwargs}
        with_rows = kwargs.pop("output_token_mask", False)  # for the heads here
        _refuse(kwargs)
        _check_packing(packing, position_ids)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected one of input_ids and inputs_embeds, got both or neither")
        cache = past_key_values if cache is None else cache
        implementation = config._attn_implementation
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_attentions and implementation != "eager":
            raise ValueError(
                f"output_attentions must be False with attn_implementation={implementation!r}, "
                "which has no probabilities: load or set attn_implementation='eager'"
            )
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if output_router_logits is None:
            output_router_logits = config.output_router_logits
        if use_cache is None:
            use_cache = config.use_cache and not self.training

        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds  # [B, L, H]
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, _eager)
        attentions: list[Tensor] | None = [] if output_attentions else None
        attend = functools.partial(_attend, interface, packing, attentions)
        context = self._context(x, attention_mask, position_ids, cache, attend)
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if recompute and (use_cache or cache is not None):
            raise ValueError(f"gradient checkpointing takes no {_CACHE}: pass use_cache=False")
        if use_cache and cache is None:  # after the mask, which may be packed
            cache = DynamicCache(config=config)
        hidden_states, router_logits, experts = [x], [], []
        for layer, ids in zip(self.layers, of_layers(routing, config, context.shape), strict=True):
            if recompute:
                x, logits, gating = self._gradient_checkpointing_func(
                    layer.__call__, x, context, None, ids
                )
            else:
                x, logits, gating = layer(x, context, cache=cache, routing=ids)
            hidden_states.append(x)
            router_logits.append(logits)
            experts.append(gating.experts)
        x = self.norm(x)
        out = PanguProMoEModelOutput(
            last_hidden_state=x,
            **({} if cache is None else {_CACHE: cache}),
            hidden_states=(*hidden_states[:-1], x) if output_hidden_states else None,
            # a backward pass that recomputes adds the same once more
            attentions=None if attentions is None else tuple(attentions[: len(self.layers)]),
            router_logits=tuple(router_logits) if output_router_logits else None,
            router_experts=tuple(experts) if output_router_logits else None,
            token_mask=context.rows if with_rows else None,
        )
        return out.to_tuple() if _as_tuple(return_dict, config) else out


def _check_packing(packing: Mapping[str, Any], position_ids: Tensor | None) -> None:
    """Raises ValueError where arguments say that other sequences begin than ``position_ids`` do."""
    if not packing:
        return
    if position_ids is None:
        raise ValueError(f"{', '.join(packing)} must come with position_ids, got None")
    if torch.compiler.is_compiling():
        return
    begins = F.pad(position_ids.diff(dim=-1) <= 0, (1, 0), value=True)
    found = {}
    if packing.get("cu_seq_lens_q") is not None:
        found["cu_seq_lens_q"] = packing["cu_seq_lens_q"][:-1], begins.flatten().nonzero()[:, 0]
    if packing.get("seq_idx") is not None:
        found["seq_idx"] = packing["seq_idx"].diff(dim=-1) != 0, begins[:, 1:]
    for name, (said, positions) in found.items():
        if said.shape != positions.shape or not (said == positions).all():
            raise ValueError(f"{name} must begin sequences where position_ids start again")


def _as_tuple(return_dict: bool | None, config: PreTrainedConfig) -> bool:
    return not (config.return_dict if return_dict is None else return_dict)


class PanguProMoEForCausalLM(PanguProMoEPreTrainedModel, GenerationMixin):
    """The language model. What transformers' tools expect of one works here."""

    def __init__(self, config: PanguProMoEConfig) -> None:
        super().__init__(config)
        self.model = PanguProMoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers, without arguments of ``generate`` that are not the model's."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        return {k: v for k, v in inputs.items() if k not in ("tokenizer", "assistant_tokenizer")}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        cache: Any = None,
        num_items_in_batch: Tensor | int | None = None,
        routing: Tensor | Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast | tuple[Any, ...]:
        """Logits ``[B, L, V]``, and with labels the loss.

        The loss is the cross-entropy of the next tokens. In training, and with
        ``output_router_logits`` in evaluation too, ``router_aux_loss_coef`` times the load-balance
        loss is added; ``aux_loss`` has it alone. Padding counts in neither.

        Args:
            labels: ``[B, L]``, -100 where there is none.
            logits_to_keep: Number of last tokens whose logits are returned, 0 for all; or which
                tokens, ``[n]`` for all rows, ``[B, n]``, or bool ``[B, L]``, as in transformers.
            num_items_in_batch: Labels of all parts of a batch whose gradients are accumulated: the
                cross-entropy is the sum over these divided by that number, and the load-balance
                loss has this part's share in it.
            kwargs: ``shift_labels`` ``[B, L]``, labels that stand where they are predicted and are
                taken in place of ``labels``; and as in :meth:`PanguProMoEModel.forward`.
            input_ids, attention_mask, position_ids, past_key_values, cache, inputs_embeds,
                use_cache, output_router_logits, return_dict, routing: As in
                :meth:`PanguProMoEModel.forward`.

        Raises:
            TypeError, ValueError: As :meth:`PanguProMoEModel.forward`; labels of another shape, or
                with fewer logits than labels.
        """
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        # not named in the signature: Trainer would expect it in every batch
        shift_labels: Tensor | None = kwargs.pop("shift_labels", None)
        learns = labels is not None or shift_labels is not None
        with_aux_loss = output_router_logits or (learns and self.training)
        whole = not isinstance(logits_to_keep, Tensor) and logits_to_keep == 0
        if shift_labels is None and labels is not None and not whole:
            raise ValueError("logits_to_keep must be 0 with labels, which need all logits")
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=with_aux_loss,
            output_token_mask=True,
            return_dict=True,
            routing=routing,
            **{_CACHE: past_key_values if cache is None else cache},
            **kwargs,
        )
        logits = self.lm_head(_kept(out.last_hidden_state, logits_to_keep))
        rows, loss, aux_loss = out.token_mask, None, None
        if with_aux_loss:
            aux_loss = balance(out.router_logits, out.router_experts, rows)
        if learns:
            if shift_labels is not None:
                _checks.shape("shift_labels", shift_labels, "[B, L]", tuple(logits.shape[:2]))
                if rows is not None and whole:  # a token and the next one
                    shift_labels = shift_labels.masked_fill(~(rows & rows.roll(-1, 1)), IGNORED)
            else:
                assert labels is not None
                _checks.shape("labels", labels, "[B, L]", tuple(logits.shape[:2]))
                labels = predicted(labels, rows)
            loss = self.loss_function(
                logits,
                labels,
                self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                ignore_index=IGNORED,
                shift_labels=shift_labels,
            )
            if aux_loss is not None:
                share: Tensor | float = 1.0
                if num_items_in_batch is not None:
                    targets = labels[:, 1:] if shift_labels is None else shift_labels  # type: ignore[index]
                    number = torch.as_tensor(num_items_in_batch, device=aux_loss.device)
                    share = (targets != IGNORED).sum().to(aux_loss) / number
                weighted = self.config.router_aux_loss_coef * share * aux_loss
                loss = loss + weighted.to(loss.device)
        result = MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            **({} if out.get(_CACHE) is None else {_CACHE: out[_CACHE]}),
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            router_logits=out.router_logits if output_router_logits else None,
        )
        return result.to_tuple() if _as_tuple(return_dict, self.config) else result


def _kept(x: Tensor, which: int | Tensor) -> Tensor:
    """The tokens of ``[B, L, H]`` that ``logits_to_keep`` means."""
    if isinstance(which, Tensor) and which.ndim == 2:
        return x[which] if which.dtype == torch.bool else x.take_along_dim(which[..., None], 1)
    return x[:, which if isinstance(which, Tensor) else slice(-which, None)]


class PanguProMoEForSequenceClassification(
    GenericForSequenceClassification,
    PanguProMoEPreTrainedModel,
):
    """Classes of whole sequences, from the hidden state of their last token."""

    accepts_loss_kwargs = False  # Trainer then does not count the labels of accumulated batches

    _keys_to_ignore_on_load_unexpected = ["lm_head.weight"]
