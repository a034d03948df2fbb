"""``moge-ops generate``: a model's answer, token by token."""

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moge_ops.cli import _models as models
from moge_ops.cli._loading import GB, cached, check_ids, load, load_offloaded
from moge_ops.cli._profile import profiles_of
from moge_ops.cli._text import shown, utf8
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.speculation import Draft, make_draft
from moge_ops.models.tokenizer import Stream, Tokenizer, load_tokenizer
from moge_ops.statistics import RouterStatistics

DRAFTS = ("lookup", "mtp")
# an option -> the one that it belongs to
NEEDS = {"draft_tokens": "draft", "task": "profiles", "keep": "profiles"}


def generate(args: argparse.Namespace) -> None:
    """Prints the answer token by token; what it took goes to standard error."""
    for name, needed in NEEDS.items():
        if getattr(args, name) is not None and getattr(args, needed) is None:
            raise ValueError(f"--{name.replace('_', '-')} needs --{needed}")
    folder = Path(args.folder)
    config, tokenizer = models.checkpoint.read_config(folder), load_tokenizer(folder)
    if args.text == "-" and sys.stdin is None:
        raise ValueError("standard input must be open to read the prompt from it, got none")
    text = utf8("the prompt", sys.stdin.buffer.read() if args.text == "-" else args.text)
    text = text.replace("\r\n", "\n")  # as reading text does
    if not text:
        raise ValueError("the prompt must not be empty")
    system = utf8("--system", args.system)
    ids = tokenizer.raw(text) if args.raw else tokenizer.chat(text, system)
    check_ids(tokenizer, ids, config)
    with ExitStack() as closing:
        _generate(args, tokenizer, ids, closing)


def _generate(
    args: argparse.Namespace, tokenizer: Tokenizer, ids: Sequence[int], closing: ExitStack
) -> None:
    draft, beside = _draft(args, len(ids))
    hook = _hook(args, tokenizer, closing)
    model = _model(args, ids, beside, closing)
    random = torch.Generator(args.device)
    if args.seed is None:
        random.seed()
    else:
        random.manual_seed(args.seed)

    stream, times = Stream(tokenizer), [time.perf_counter()]
    eos = model.config.eos_token_id
    ends = {eos} if isinstance(eos, int) else set(eos or ())

    def show(chosen: Tensor) -> None:
        token = int(chosen)
        if token < 0:  # a step of this row that brings none
            return
        times.append(time.perf_counter())
        if token not in ends:
            print(shown(stream.add(token)), end="", flush=True)

    further: dict[str, Any] = {}
    if draft is not None:
        further["draft"] = draft
    if args.draft_tokens is not None:
        further["draft_tokens"] = args.draft_tokens
    model.generate(
        [ids],
        args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        generator=random,
        streamer=show,
        hook=hook,
        **further,
    )
    print(shown(stream.rest()))
    if len(times) > 1:
        print(_rate("prefill", len(ids), times[1] - times[0]), file=sys.stderr)
    if len(times) > 2:
        print(_rate("decode", len(times) - 2, times[-1] - times[1]), file=sys.stderr)
    if draft is not None:
        _show_draft(draft, len(times) - 1)
    if hook is not None:
        _show_hook(hook)
    if _offloaded(args):
        store = models.offload.of(model)
        print(
            f"experts {store.hits:5} hits, {store.misses} misses, "
            f"{store.bytes_read / GB:.3f} GB read",
            file=sys.stderr,
        )


def _rate(what: str, tokens: int, seconds: float) -> str:
    return f"{what:<7} {tokens:5} tokens in {seconds:7.2f} s: {tokens / seconds:8.1f} tokens/s"


def _of(args: argparse.Namespace, folder: str) -> argparse.Namespace:
    """The same device and dtype for another folder."""
    other = copy.copy(args)
    other.folder = folder
    return other


def _draft(args: argparse.Namespace, prompt: int) -> tuple[Draft | None, int]:
    """What guesses tokens, and the bytes that its cache will take."""
    if args.draft is None:
        return None, 0
    if (
        args.draft == "mtp"
        and not models.checkpoint.read_config(args.folder).num_nextn_predict_layers
    ):
        raise ValueError(
            f"--draft mtp needs a model with heads that predict further tokens, {args.folder} has "
            "none"
        )
    if args.draft in DRAFTS:
        return make_draft(args.draft), 0
    if not Path(args.draft).is_dir():
        raise ValueError(
            f"--draft must be lookup, mtp or a folder with a model, got {args.draft:.200}"
        )
    tokens = prompt + max(0, args.max_new_tokens) + (args.draft_tokens or 0)
    model = load(_of(args, args.draft), tokens)
    return make_draft(model), tokens * cached(model.config) * model.embed.weight.element_size()


def _show_draft(draft: Draft, tokens: int) -> None:
    rate = tokens / max(1, draft.passes)
    print(
        f"draft   {draft.accepted:5} of {draft.proposed} guesses accepted, "
        f"{rate:.2f} tokens a pass",
        file=sys.stderr,
    )


def _hook(args: argparse.Namespace, tokenizer: Tokenizer, closing: ExitStack) -> Any:
    """What cuts thinking short; its threads end with ``closing``."""
    if args.verifier is None or args.max_new_tokens < 1:
        return None
    if not Path(args.verifier).is_dir():
        raise ValueError(f"--verifier must be a folder with a model, got {args.verifier:.200}")
    judge, config = load_tokenizer(args.verifier), models.checkpoint.read_config(args.verifier)
    check_ids(judge, judge.chat("Yes or No"), config)  # errors of its calls end nothing later
    model = load(_of(args, args.verifier))
    try:
        verifier = models.trimr.LogitVerifier(model, judge)
    except ValueError as error:
        raise ValueError(
            f"--verifier {args.verifier} has no words to answer with: {error}"
        ) from None
    closing.enter_context(warnings.catch_warnings())
    # told at the end, with the number of calls
    warnings.filterwarnings("ignore", "the verifier ", RuntimeWarning)
    hook = models.trimr.TrimR(tokenizer, verifier, budget=args.max_new_tokens)
    return closing.enter_context(hook)


def _show_hook(hook: Any) -> None:
    parts = [f"verifier {hook.calls:4} calls"]
    if hook.failures or hook.timeouts:
        parts.append(f"{hook.failures} failed, {hook.timeouts} gave no verdict in time")
    for report in hook.reports:
        parts += [f"cut after {cut.tokens} tokens: {cut.reason.value}" for cut in report.cuts]
    print("; ".join(parts), file=sys.stderr)


def _offloaded(args: argparse.Namespace) -> bool:
    return args.resident is not None or args.profiles is not None


def _model(
    args: argparse.Namespace, ids: Sequence[int], beside: int, closing: ExitStack
) -> PanguMoEForCausalLM:
    """The whole model; or one whose experts, or those of a task, come when they are needed."""
    new = max(0, args.max_new_tokens)
    if not _offloaded(args):
        return load(args, len(ids) + new)
    masks = None
    if args.profiles is not None:
        config = models.checkpoint.read_config(args.folder)
        profiles = profiles_of(args, config)
        keep = args.keep
        if keep is None:  # half of each group
            k = config.num_experts_per_tok // config.num_groups
            keep = max(k, config.num_experts // config.num_groups // 2)
        task = args.task
        if task is None:
            task = _nearest(args, profiles, ids)
        masks = profiles.masks(task, keep, score="selection")
        print(f"profile {shown(task)}: {keep} experts of each group", file=sys.stderr)
    model = load_offloaded(args, len(ids), new, beside=beside, experts=masks)
    closing.enter_context(models.offload.of(model))
    return model


def _nearest(args: argparse.Namespace, profiles: RouterStatistics, ids: Sequence[int]) -> str:
    """The task that a prompt is most like.

    The router of the first layer tells, which needs no expert: as few as possible are loaded.
    """
    config = models.checkpoint.read_config(args.folder)
    E, G = config.num_experts, config.num_groups
    few = torch.arange(E) % (E // G) < config.num_experts_per_tok // G
    layers: Mapping[str, Tensor] = next(iter(profiles.sums.values()), {})
    model = load_offloaded(args, len(ids), experts=dict.fromkeys(layers, few))
    with models.offload.of(model), torch.inference_mode():
        return profiles.nearest(model, torch.tensor([ids], device=args.device))
