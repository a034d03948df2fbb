"""The command line, ``moge-ops`` or ``python -m moge_ops``: what runs here, and checkpoint folders.

Without the extra ``models`` only ``info`` runs; the other commands say what to install.
"""

import argparse
import io
import os
import pkgutil
import platform
import re
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from moge_ops import _backend, _extensions, _files, _interrupt, ops
from moge_ops._memory import available
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, PanguMoEOutput
from moge_ops.models.layout import parameter_counts
from moge_ops.models.tokenizer import (
    BOS,
    CLOSE,
    MOST_TOKENIZER,
    Stream,
    Tokenizer,
    load_tokenizer,
    write_byte_tokenizer,
)
from moge_ops.quant import SCHEMES

_missing: ImportError | None = None
try:
    from moge_ops.models import checkpoint
    from moge_ops.models.convert import convert_quantized
except ImportError as error:
    _missing = error

__all__ = ["convert", "generate", "info", "inspect", "main", "make_tiny"]

DTYPES = ("float32", "bfloat16", "float16", "float64")
GB = 10**9
RUNTIMES = {
    "cann": "torch_npu on CANN",
    "host": "torch_npu on the host runtime of csrc/npu_host, which is no NPU",
}
DEBUG = "show where an error was found"
# files that `convert` copies: data only, while a folder may also hold Python files
COPIED = (
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
WINDOW = 512  # most tokens in one forward of `inspect`
MOST_TEXT = 64 * 2**20  # bytes of a text for `inspect`; it may be a pipe, or a device without end
PIPE_CLOSED = 141  # what a shell reports for a process that its reader left


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and runs one command.

    A fault of a folder, of an option or of the machine becomes one line on standard error and exit
    code 2; ``--debug`` shows where it was found. Ctrl-C is exit code 130, a closed pipe 141.
    """
    quiet = False
    _print_anything()
    try:
        quiet = _interrupt.raise_again()
        try:
            args = _parser().parse_args(argv)
            _run(args)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, so that what it raises is not raised at the very end
    except BrokenPipeError:
        _drop_output()
        sys.exit(PIPE_CLOSED)
    except OSError as error:  # of the flush
        _drop_output()
        print(f"moge-ops: standard output: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_interrupt.INTERRUPTED)
    finally:
        if quiet:
            _interrupt.leave_quietly()


def _run(args: argparse.Namespace) -> None:
    try:
        if args.command == "info":
            print(info())
            return
        if _missing is not None:
            raise _missing
        args.run(args)
    except BrokenPipeError:
        raise
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        # torch has no class of its own for memory of the CPU; other RuntimeErrors are defects
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        )
        if isinstance(error, RuntimeError) and not memory:
            raise
        if args.debug:
            print(_shown(traceback.format_exc()), end="", file=sys.stderr)
        reason = str(error)
        if memory:
            reason = "not enough memory" + (f": {reason}" if reason else "")
        print(f"{args.command}: {_line(reason)}", file=sys.stderr)
        sys.exit(2)


def _print_anything() -> None:
    """Escapes characters that the encoding of standard output or error does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Lets Python's last flush of standard output succeed, which would be a traceback."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line, as every other fault."""
        print(f"{self.prog}: {_line(message)}; options: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _int64(text: str) -> int:
    """The type of options that are ints; Python's have no bounds, but torch's have."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be an int, got {text:.40}")
    value = int(text) if len(text) < 40 else 2**63  # int refuses thousands of digits
    if not -(2**63) <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be in [-2^63, 2^63), got {text:.40}")
    return value


def _parser() -> argparse.ArgumentParser:
    about = "Tells where the operators of moge_ops run, and works with Pangu Pro MoE checkpoints."
    parser = _Parser(prog="moge-ops", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    to = commands.add_parser(
        "info", help="versions, devices, and which operator runs on which backend"
    )
    to.add_argument("--debug", action="store_true", help=DEBUG)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], None],
        text: str,
        folder: str = "folder with config.json and safetensors files",
    ) -> _Parser:
        made = commands.add_parser(name, help=text, description=f"{text}.")
        made.add_argument("folder", help=folder)
        made.add_argument("--debug", action="store_true", help=DEBUG)
        made.set_defaults(run=run)
        return made

    def add_dtype(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--dtype", choices=DTYPES, help="dtype of the weights (default: that of the files)"
        )

    def add_device(to: argparse.ArgumentParser) -> None:
        devices = [*_accelerators(), "cpu"]
        # a whole model needs PyTorch's operators, too, which the host runtime has not
        on_host = _extensions.npu_runtime() == "host"
        to.add_argument("--device", choices=devices, default="cpu" if on_host else devices[0])

    to = command("generate", generate, "prints a model's answer to a question, token by token")
    to.add_argument("text", help="the question, or - to read it from standard input")
    to.add_argument("--system", default="", help="system message before the question")
    to.add_argument("--raw", action="store_true", help="continue the text, without chat template")
    to.add_argument("--max-new-tokens", type=_int64, default=256, metavar="N")
    to.add_argument("--temperature", type=float, default=0.6, help="0 takes the likeliest token")
    to.add_argument("--top-k", type=_int64, default=50, metavar="N", help="0 for all")
    to.add_argument("--top-p", type=float, default=0.95, metavar="P")
    to.add_argument("--seed", type=_int64, help="the same seed gives the same answer")
    add_device(to)
    add_dtype(to)

    to = command("inspect", inspect, "shows a model's sizes, what fits into memory, its routers")
    what = to.add_mutually_exclusive_group()
    what.add_argument("--text", metavar="FILE", help="router statistics over this file")
    what.add_argument("--prompt", metavar="TEXT", help="router statistics over this text")
    to.add_argument(
        "--max-tokens", type=_int64, default=2048, metavar="N", help="most tokens of the text"
    )
    add_device(to)
    add_dtype(to)

    text = "writes a small random model and a tokenizer, for trials"
    to = command("make-tiny", make_tiny, text, folder="folder to write, new or empty")
    to.add_argument("--seed", type=_int64, default=0)
    to.add_argument("--dtype", choices=DTYPES, default="bfloat16")

    text = "writes a model in another dtype, in files of another size, or with quantised experts"
    to = command("convert", convert, text)
    to.add_argument("out", help="folder to write, in the released layout")
    to.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="like 5GB or 500MiB")
    to.add_argument(
        "--quantize",
        choices=SCHEMES,
        help="quantise the routed experts, layer by layer, and write compressed-tensors",
    )
    to.add_argument(
        "--group-size",
        type=_int64,
        metavar="N",
        help="columns that share a scale (default: that of the scheme)",
    )
    add_dtype(to)
    to.set_defaults(device="cpu")
    commands.metavar = "{" + ",".join(commands.choices) + "}"  # for the error where none is given
    return parser


def _version(distribution: str) -> str:
    """Read from the metadata: an import of Triton here would fix how its kernels are decorated."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _versions() -> Iterator[tuple[str, str]]:
    yield "moge_ops", _version("moge-ops")
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    for name in ("triton", "numpy", "torch-npu"):
        yield name, _version(name)
    yield "ascend c", _extensions.build("_C")


def _native() -> str:
    """Level of the instruction set, and why it is not a higher one."""
    above = [f"no {name}: {missing}" for name, missing in _extensions.cpu_levels() if missing]
    return ", ".join([_extensions.cpu_level(), *above])


def _accelerators() -> list[str]:
    """The GPUs or NPUs, as PyTorch names them."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None or kind.type not in ("cuda", "npu"):
        return []
    return [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())]


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{torch.get_num_threads()} threads, native kernels: {_native()}"
    for device in _accelerators():
        yield device, torch.get_device_module(device).get_device_name(device)
    runtime = _extensions.npu_runtime()
    kernels = f"; Ascend C kernels: {_extensions.npu_kernels()}"
    yield "npu", RUNTIMES[runtime] + kernels if runtime in RUNTIMES else runtime


def _probe(backend: _backend.Backend, op: str) -> str:
    """Loads one module as a call of the operator would, and says what it runs on."""
    runs_on = backend.runs_on()
    if runs_on == "interpreter":
        backend.on_cpu()  # asks for the interpreter before the first kernel loads
    _backend.load(backend.name, op)
    return runs_on


def info() -> str:
    """Versions, devices, and for each operator and backend whether it is usable, and why not."""
    lines = [f"{name:<9} {text}" for name, text in (*_versions(), *_devices())]

    names = [module.name for module in pkgutil.iter_modules(ops.__path__)]
    width = max(map(len, names)) + 2
    lines += ["", "operator".ljust(width) + "".join(b.ljust(13) for b in _backend.BACKENDS)]
    reasons: dict[str, list[str]] = {}  # why not -> operators
    for op in names:
        row = op.ljust(width)
        for backend in _backend.BACKENDS.values():
            try:
                usable = _probe(backend, op)
            except Exception as error:  # any error that stops a module from loading is the answer
                usable = "no"
                reasons.setdefault(f"{backend.name}: {type(error).__name__}: {error}", []).append(
                    op
                )
            row += usable.ljust(13)
        lines.append(row)
    if reasons:
        lines.append("")
    for reason, which in reasons.items():
        lines.append(f"{'all' if which == names else ', '.join(which)}: {reason}")
    return "\n".join(line.rstrip() for line in lines)


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, with rich if that is installed; all columns but the first are numbers."""
    cells = [[str(cell) for cell in row] for row in rows]
    try:
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        lines = [list(headings), *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
        print(f"\n{title}")
        for first, *numbers in lines:
            padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            print("  ".join([first.ljust(widths[0]), *padded]))
        return
    # Python has no standard output where the shell closed it
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    lines_of = box.HEAVY_HEAD if encoding.lower().startswith("utf") else box.ASCII
    made = Table(title=escape(title), title_justify="left", box=lines_of)
    for i, heading in enumerate(headings):
        made.add_column(heading, justify="right" if i else "left")
    for row in cells:
        made.add_row(*row)
    terminal, shown = sys.stdout is not None and sys.stdout.isatty(), io.StringIO()
    # not to standard output itself: rich would end the process if that is a closed pipe
    width = None if terminal else 120
    Console(file=shown, force_terminal=terminal, width=width, highlight=False).print(made)
    print(shown.getvalue(), end="")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cached(config: PanguMoEConfig) -> int:
    """Elements of the cache that one token takes."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def _load(args: argparse.Namespace, tokens: int = 0) -> PanguMoEForCausalLM:
    """Loads the model, if it and a cache of ``tokens`` tokens fit into memory.

    Raises:
        ValueError: They do not fit; nothing has been allocated.
    """
    folder = Path(args.folder)
    config = checkpoint.read_config(folder)
    dtype = getattr(torch, args.dtype) if args.dtype else checkpoint.stored_dtype(folder)
    cache = tokens * _cached(config) * dtype.itemsize
    need = checkpoint.bytes_needed(folder, config, dtype) + cache
    free = available(args.device)
    if free is not None and need > free:
        raise ValueError(
            f"{folder} needs {need / GB:.1f} GB in {_name(dtype)}, "
            f"{free / GB:.1f} GB are available on {args.device}"
        )
    return checkpoint.from_pretrained(folder, dtype=dtype, device=args.device)


def _check_ids(tokenizer: Tokenizer, ids: Sequence[int], config: PanguMoEConfig) -> None:
    if max(ids) >= config.vocab_size:
        raise ValueError(
            f"{tokenizer.path} must give ids below vocab_size={config.vocab_size} of config.json, "
            f"got {max(ids)}"
        )


def _utf8(name: str, text: str | bytes) -> str:
    """A text from outside.

    Python keeps bytes of the command line that the locale's encoding does not have as halves of
    surrogates. In the locale "C" they may still be UTF-8.

    Raises:
        ValueError: It is not UTF-8.
    """
    if isinstance(text, str) and not re.search("[\ud800-\udfff]", text):
        return text
    try:
        return (text if isinstance(text, bytes) else os.fsencode(text)).decode()
    except UnicodeError as error:
        _, data, start, *_ = error.args
        got = f"{data[start : start + 1]!a} at {start}"
        raise ValueError(f"{name} must be UTF-8, got {got}") from None


def generate(args: argparse.Namespace) -> None:
    """Prints the answer token by token; the rates of prefill and decode go to standard error."""
    folder = Path(args.folder)
    config, tokenizer = checkpoint.read_config(folder), load_tokenizer(folder)
    if args.text == "-" and sys.stdin is None:
        raise ValueError("standard input must be open to read the prompt from it, got none")
    text = _utf8("the prompt", sys.stdin.buffer.read() if args.text == "-" else args.text)
    text = text.replace("\r\n", "\n")  # as reading text does
    if not text:
        raise ValueError("the prompt must not be empty")
    system = _utf8("--system", args.system)
    ids = tokenizer.raw(text) if args.raw else tokenizer.chat(text, system)
    _check_ids(tokenizer, ids, config)
    model = _load(args, len(ids) + max(0, args.max_new_tokens))
    random = torch.Generator(args.device)
    if args.seed is None:
        random.seed()
    else:
        random.manual_seed(args.seed)

    stream, times = Stream(tokenizer), [time.perf_counter()]
    eos = config.eos_token_id
    ends = {eos} if isinstance(eos, int) else set(eos or ())

    def show(chosen: Tensor) -> None:
        token = int(chosen)
        times.append(time.perf_counter())
        if token not in ends:
            print(_shown(stream.add(token)), end="", flush=True)

    model.generate(
        [ids],
        args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        generator=random,
        streamer=show,
    )
    print(_shown(stream.rest()))
    if len(times) > 1:
        print(_rate("prefill", len(ids), times[1] - times[0]), file=sys.stderr)
    if len(times) > 2:
        print(_rate("decode", len(times) - 2, times[-1] - times[1]), file=sys.stderr)


def _shown(text: str) -> str:
    """The text with control characters replaced, which could steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def _line(text: str) -> str:
    """The text in one line."""
    line = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return _shown(line.replace(":; ", ": "))


def _rate(what: str, tokens: int, seconds: float) -> str:
    return f"{what:<7} {tokens:5} tokens in {seconds:7.2f} s: {tokens / seconds:8.1f} tokens/s"


def inspect(args: argparse.Namespace) -> None:
    """Prints the model's sizes, what fits into memory, and statistics of the routers."""
    folder = Path(args.folder)
    config = checkpoint.read_config(folder)
    total, active = parameter_counts(config)
    E, G, K = config.num_experts, config.num_groups, config.num_experts_per_tok
    heads = f"{config.num_attention_heads} / {config.num_key_value_heads}"
    rows: list[tuple[str, object]] = [
        ("layers", config.num_hidden_layers),
        ("hidden size H", config.hidden_size),
        ("attention heads / of keys and values", heads),
        ("width of a head", config.head_dim),
        ("vocabulary", config.vocab_size),
        ("positions", config.max_position_embeddings),
        ("experts E", E),
        ("groups G of neighbouring experts", G),
        ("experts of a token K, each group's share", f"{K}, {K // G}"),
        ("width of an expert F", config.moe_intermediate_size),
        ("width of the shared expert", config.shared_expert_intermediate_size),
        ("parameters", f"{total:,}"),
        ("active for a token", f"{active:,}"),
    ]
    table(f"{folder}: architecture", ("", "value"), rows)
    _show_files(folder)
    _show_memory(config, total, args.device)
    if args.text is not None or args.prompt is not None:
        _show_routers(args)


def _show_files(folder: Path) -> None:
    """Counts tensors by dtype; a folder may also hold nothing but a config."""
    if not any(folder.glob("*.safetensors*")):
        print(f"{folder} has no weights")
        return
    tensors, elements = Counter[str](), Counter[str]()
    for _, dtype, n in checkpoint.stored_tensors(folder):
        tensors[dtype] += 1
        elements[dtype] += n
    rows = [(dtype, tensors[dtype], f"{n:,}") for dtype, n in elements.items()]
    table("Weights in the files", ("dtype", "tensors", "elements"), rows)


def _show_memory(config: PanguMoEConfig, total: int, device: str) -> None:
    free = available(device)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        weights, token = total * dtype.itemsize, _cached(config) * dtype.itemsize
        row: list[object] = [_name(dtype), f"{weights / GB:.3f}", f"{1000 * token / GB:.3f}"]
        if free is not None:
            fits = min(max(0, free - weights) // token, config.max_position_embeddings)
            row += ["yes" if weights <= free else "no", f"{fits:,}"]
        rows.append(row)
    headings = ["dtype", "weights, GB", "cache of 1000 tokens, GB"]
    if free is not None:
        headings += ["weights fit", "tokens that fit too"]
    have = "unknown" if free is None else f"{free / GB:.1f} GB"
    table(f"Memory of {device}: {have} available", headings, rows)


def _show_routers(args: argparse.Namespace) -> None:
    """Tokens of groups and experts in every layer, beside those of a plain top-k choice."""
    if args.max_tokens < 1:
        raise ValueError(f"--max-tokens must be at least 1, got {args.max_tokens}")
    text = _utf8("--prompt", args.prompt or "")
    if args.text is not None:
        try:
            with open(args.text, "rb") as file:
                data = file.read(MOST_TEXT + 1)
            text = data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{args.text} is not UTF-8: {error}") from None
        if len(data) > MOST_TEXT:
            raise ValueError(f"{args.text} must have at most {MOST_TEXT:,} bytes, got more")
    tokenizer = load_tokenizer(args.folder)
    ids = tokenizer.raw(text)[: args.max_tokens]
    model = _load(args)
    config = model.config
    _check_ids(tokenizer, ids, config)
    counts, plain = _tokens_of_experts(model, ids)
    G, K, T = config.num_groups, config.num_experts_per_tok, len(ids)
    P = config.num_experts // G

    rows = []
    for i, (ours, theirs) in enumerate(zip(counts, plain, strict=True)):
        groups = sorted(set(ours.view(G, P).sum(1).tolist()))
        experts = ours.tolist()
        median = f"{statistics.median(experts):g}"
        row = (min(experts), median, max(experts), experts.count(0))
        scores = (_imbalance(ours, G, T), _imbalance(theirs, G, T))
        rows.append((i, " to ".join(map(str, groups)), *row, *(f"{x:.3f}" for x in scores)))
    spread = ("an expert: least", "median", "most", "unused")
    headings = ("layer", "a group", *spread, "IS", "IS top-k")
    table(f"Routers over {T} tokens: tokens of groups and experts", headings, rows)
    print(
        f"IS: (max - min) / tokens, over {G} devices with one group each; "
        f"IS top-k: the same, if every token took the best {K} of all {G * P} experts."
    )
    if P <= 16:
        grid = [(g, *row) for g, row in enumerate(counts.sum(0).view(G, P).tolist())]
        expert = [f"expert {j}" if j == 0 else str(j) for j in range(P)]
        table("Tokens of every expert, all layers", ("group", *expert), grid)


def _tokens_of_experts(model: PanguMoEForCausalLM, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Tokens that each expert gets, ``[layers, E]``: by the router, and by plain top-k."""
    config = model.config
    E, K = config.num_experts, config.num_experts_per_tok
    counts = torch.zeros(config.num_hidden_layers, E, dtype=torch.int64)
    plain = torch.zeros_like(counts)
    for details in _forwards(model, ids):
        layers = zip(details.router_logits, details.gating, strict=True)
        for i, (logits, gating) in enumerate(layers):
            counts[i] += gating.counts.cpu()
            plain[i] += torch.bincount(logits.topk(K).indices.flatten(), minlength=E).cpu()
    return counts, plain


def _forwards(model: PanguMoEForCausalLM, ids: Sequence[int]) -> Iterator[PanguMoEOutput]:
    """Runs the model over the text, one window after another."""
    width = min(WINDOW, model.config.max_position_embeddings)
    with torch.inference_mode():
        for start in range(0, len(ids), width):
            window = torch.tensor([ids[start : start + width]], device=model.embed.weight.device)
            yield model(window, logits_to_keep=1, return_details=True)


def _imbalance(counts: Tensor, devices: int, tokens: int) -> float:
    """IS of arXiv 2505.21411: loads of the most and least loaded device, their gap per token."""
    loads = counts.view(devices, -1).sum(1)
    return float(loads.max() - loads.min()) / tokens


def make_tiny(args: argparse.Namespace) -> None:
    """Writes a small random model with a byte tokenizer."""
    folder = Path(args.folder)
    if folder.exists() and (there := sorted(path.name for path in folder.iterdir())):
        raise FileExistsError(f"{folder} must be empty or new, got {', '.join(there[:5])}")
    torch.manual_seed(args.seed)
    with _files.staged(folder, last="config.json") as stage:
        tokenizer = write_byte_tokenizer(stage)
        model = PanguMoEForCausalLM(
            PanguMoEConfig(
                vocab_size=tokenizer.size,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,  # of 32, the narrowest that vLLM's attention for CPUs takes
                num_key_value_heads=1,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=64,
                max_position_embeddings=4096,
                bos_token_id=tokenizer.id_of(BOS),
                eos_token_id=tokenizer.id_of(CLOSE),
            )
        )
        # wide, as in a trained model: tokens that are nearly alike would all get the same experts
        torch.nn.init.normal_(model.embed.weight)
        checkpoint.save_pretrained(model.to(getattr(torch, args.dtype)), stage)
    total, active = model.parameter_counts()
    print(f"{folder}: {total:,} random parameters, {active:,} active, {args.dtype}")


def convert(args: argparse.Namespace) -> None:
    """Writes a copy of a folder, in another dtype, in files of another size, or quantised."""
    folder, out = Path(args.folder), Path(args.out)
    if args.group_size is not None and args.quantize is None:
        raise ValueError("--group-size needs --quantize")
    checkpoint.refuse_weights(out)
    model = None if args.quantize else _load(args)
    with _files.staged(out, last="config.json") as stage:
        if model is not None:
            checkpoint.save_pretrained(model, stage, max_shard_size=args.max_shard_size)
        else:
            convert_quantized(
                folder,
                stage,
                args.quantize,
                group_size=args.group_size,
                dtype=getattr(torch, args.dtype) if args.dtype else None,
                max_shard_size=args.max_shard_size,
            )
        for name in COPIED:
            if (folder / name).exists():
                data = _files.read(folder / name, MOST_TOKENIZER)
                _files.write(stage / name, data)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    kind = f"{_name(checkpoint.stored_dtype(out))}{', experts ' * bool(args.quantize)}"
    print(f"{out}: {len(files)} file{'s' * (len(files) > 1)}, {kind}{args.quantize or ''}")
