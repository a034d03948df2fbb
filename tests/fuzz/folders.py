"""Checkpoint folders that somebody damaged on purpose, or by accident.

A case is a list of edits of a small valid folder, as plain data. `check` makes the folder, and
reads it in every way that the project has: it must be refused by an error that names what is
wrong, or load as a whole. Nothing beside the folder may change, nothing may be executed, and
neither time nor memory may grow beyond the size of the files.

The folders of hostile tokenizers print Rust's own lines about panics on standard error.
"""

import contextlib
import functools
import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors import safe_open

from moge_ops import cli
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, read_config, released, save_pretrained
from moge_ops.models.tokenizer import load_tokenizer, write_byte_tokenizer
from moge_ops.quant import quantize_experts

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# of work: on a machine that has other things to do more time passes, which the runner limits
MOST_SECONDS, MOST_MEMORY = 5.0, 200 * 2**20
FILES = ("config.json", "tokenizer.json", "weights", "index")
REFUSALS = (FileNotFoundError, ValueError, OSError, ImportError, TypeError)
TRAP = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\n"

KEYS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "num_experts", "num_experts_per_tok", "num_groups"),
    *("router_n_groups", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("max_position_embeddings", "rope_theta", "rms_norm_eps", "attention_dropout"),
    *("initializer_range", "router_aux_loss_coef", "bos_token_id", "eos_token_id"),
    *("model_type", "hidden_act", "rope_scaling", "tie_word_embeddings", "torch_dtype", "dtype"),
    *("auto_map", "extra", "architectures", "quantization_config", ""),
)
# in a quantization_config, in its group, and in the weights of that
QUANTIZED = (
    *("quant_method", "format", "config_groups", "ignore", "sparsity_config", "bits", "desc_act"),
    *("sym", "checkpoint_format", "version", "zero_point", "fmt", "weight_block_size"),
    *("targets", "weights", "input_activations", "num_bits", "type", "strategy", "group_size"),
    *("symmetric", "actorder", "block_structure"),
)
METHODS = ("compressed-tensors", "fp8", "gptq", "awq", "mxfp4", "int-quantized", "pack-quantized",
           "float-quantized", "mxfp4-pack-quantized", "float", "int", "block", "group", "tensor",
           "channel", 4, 8, 128, [128, 128], True, False, ["re:(a+)+$"])  # fmt: skip
PARTS = ("truncation", "padding", "normalizer", "pre_tokenizer", "decoder", "model", "added_tokens",
         "post_processor", "version")  # fmt: skip
# what stands for data that JSON cannot hold, or that is too long to be drawn
LITERALS = {
    "deep list": "[" * 3000 + "]" * 3000,
    "open lists": "[" * 200_000,
    "deep object": '{"a":' * 900 + "1" + "}" * 900,
    "NaN": "NaN",
    "Infinity": "Infinity",
    "1e999": "1e999",
    "digits": "9" * 5000,
    "long": "9" * 400,
    "surrogate": '"\\ud800"',
    "text": '"' + "x" * 100_000 + '"',
}


@functools.cache
def base(sharded: bool, scheme: str = "") -> dict[str, bytes]:
    """The files of a valid folder; the first call imports much, and takes seconds.

    ``scheme`` is that of quantised experts, if they are.
    """
    config = PanguMoEConfig(
        vocab_size=260, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_experts=2, num_experts_per_tok=2, num_groups=2,
        moe_intermediate_size=3, shared_expert_intermediate_size=2, max_position_embeddings=64,
        eos_token_id=3,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "folder"
        torch.manual_seed(0)
        model = PanguMoEForCausalLM(config)
        if scheme:
            quantize_experts(model, scheme)
        save_pretrained(model, folder, max_shard_size=5000 if sharded else "5GB")
        write_byte_tokenizer(folder)
        for what in ("generate", "routers", "convert"):  # first uses import more, which takes time
            assert run(folder, what) == (0, ""), what
        with contextlib.suppress(ValueError):
            (folder / "tokenizer.model").touch()
            (folder / "tokenizer.json").rename(folder / "kept")
            load_tokenizer(folder)  # imports sentencepiece
        (folder / "tokenizer.model").unlink()
        (folder / "kept").rename(folder / "tokenizer.json")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def values() -> st.SearchStrategy[Any]:
    """Hostile values of every type and size."""
    numbers = [0, -1, 1, 2, 3, 7, 2**31 - 1, 2**31, 2**63, 10**6, 10**9, 10**12, 10**18, 10**30]
    simple = st.one_of(
        st.sampled_from(
            [*numbers, None, True, False, 0.0, -0.5, 1.5, 1e-300, 1e300, "", "x", "F32"]
        ),
        st.text(max_size=8),
        st.sampled_from(sorted(LITERALS)).map(lambda name: {"literal": name}),
    )
    return st.one_of(
        simple,
        st.lists(simple, max_size=3),
        st.dictionaries(st.text(max_size=4), simple, max_size=2),
    )


def cases() -> st.SearchStrategy[dict[str, Any]]:
    """Cases for :func:`check`."""
    file, at = st.sampled_from(FILES), st.integers(0, 10**6)
    edits = st.one_of(
        edit("truncate", file=file, at=at),
        edit("flip", file=file, at=at, bit=st.integers(0, 7)),
        edit("insert", file=file, at=at, data=st.binary(min_size=1, max_size=9).map(list)),
        edit("extend", file=file, n=st.sampled_from([1, 8, 4096])),
        edit("empty", file=file),
        edit("remove", file=file),
        edit("encode", file=file, encoding=st.sampled_from(["utf-16", "utf-32", "utf-8-sig"])),
        edit("holes", file=file, n=st.sampled_from([10**6, 10**9, 10**13])),
        edit("special", file=file, what=st.sampled_from(sorted(SPECIAL))),
        edit("nest", file=file, literal=st.sampled_from(["open lists", "deep list",
             "deep object"])),
        edit("header length", length=st.sampled_from([0, 1, 7, 10**5, 10**8, 2**40, 2**63,
             2**64 - 1])),
        edit("header", tensor=at, key=st.sampled_from(["dtype", "shape", "data_offsets", "other"]),
             value=values()),
        edit("header", tensor=at, key=st.just("dtype"),
             value=st.sampled_from(["F16", "BF16", "F64", "I32", "F8_E4M3", "BOOL", "U64"])),
        edit("header", tensor=at, key=st.just("shape"),
             value=st.lists(st.sampled_from([0, 1, 4, 260, 2**32, 2**63, 2**64]), max_size=4)),
        edit("shift", tensor=at, by=st.sampled_from([-8, -4, 4, 8]), end=st.sampled_from([-4, 0,
             4])),
        edit("rename tensor", tensor=at, name=st.text(max_size=5)),
        edit("drop tensor", tensor=at),
        edit("swap tensors", tensor=at, other=at),
        edit("metadata", value=values()),
        edit("config", key=st.sampled_from(KEYS), value=values()),
        edit("config", key=st.sampled_from(KEYS), value=values()),
        edit("forget key", key=st.sampled_from(KEYS)),
        edit("quantization", key=st.sampled_from(QUANTIZED), value=values()),
        edit("quantization", key=st.sampled_from(QUANTIZED), value=st.sampled_from(METHODS)),
        edit("index", tensor=at, value=values()),
        edit("index", tensor=at, value=st.sampled_from(
            ["../secret.safetensors", "/etc/passwd", "a.safetensors/../../secret.safetensors",
             "model.safetensors", "secret", "\0.safetensors", "x" * 300 + ".safetensors",
             "..", ".safetensors", "a\nb.safetensors", "link.safetensors"])),
        edit("index key", key=st.sampled_from(["weight_map", "metadata", "other"]), value=values()),
        edit("index name", name=st.text(max_size=5), tensor=at),
        edit("tokenizer", part=st.sampled_from(PARTS), value=values()),
        edit("tokenizer", part=st.just("truncation"), value=st.sampled_from(
            [{"direction": "Right", "max_length": n, "strategy": "LongestFirst", "stride": s}
             for n in (0, 8, 10**12) for s in (0, 9)])),
        edit("tokenizer", part=st.just("padding"), value=st.sampled_from(
            [{"strategy": how, "direction": "Left", "pad_to_multiple_of": n, "pad_id": 0,
              "pad_type_id": 0, "pad_token": "<unk>"}
             for how in ("BatchLongest", {"Fixed": 10**12}) for n in (None, 0, 10**12)])),
        edit("replacements", n=st.sampled_from([1, 40]), content=st.sampled_from(["", "aa",
             "a" * 999]),
             part=st.sampled_from(["normalizer", "decoder"]),
             pattern=st.sampled_from([{"String": "a"}, {"String": ""}, {"Regex": "(a+)+$"}])),
        edit("vocabulary", token=at, value=st.sampled_from([-1, 0, 259, 260, 2**32 - 1, 2**32,
             1.5])),
        edit("piece model", data=st.binary(max_size=40).map(list), tokenizer=st.booleans()),
        edit("extra", name=st.sampled_from(
            ["modeling_pangu_moe.py", "__init__.py", "tokenization_pangu.py", "pytorch_model.bin",
             "generation_config.json", "special_tokens_map.json", "model-x.safetensors"]),
             what=st.sampled_from(sorted(SPECIAL))),
    )  # fmt: skip
    commands = st.sampled_from(["", "", "", "generate", "inspect", "routers", "convert", "convert"])
    return st.fixed_dictionaries(
        {"sharded": st.booleans(), "scheme": st.sampled_from(["", "int8_w8a8"]),
         "edits": st.lists(edits, min_size=1, max_size=3), "command": commands}
    )  # fmt: skip


def edit(kind: str, **parameters: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(kind), **parameters})


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.suppress(OSError):  # a name too long
        made.bind(str(path))


def _pickle(path: Path) -> None:
    made = path.parent.parent / "executed"  # beside the folder, where nothing may change
    path.write_bytes(f"cos\nmkdir\n(S'{made}'\ntR.".encode())


def _code(path: Path) -> None:
    path.write_text(TRAP)


def _link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": _pipe,
    "socket": _socket,
    "directory": Path.mkdir,
    "pickle": _pickle,
    "code": _code,
    "loop": _loop,
    "dangling": _link("nowhere"),
    "endless": _link("/dev/zero"),
    "null": _link(os.devnull),
    "itself": _link("."),
    "secret": _link("../secret.safetensors"),
    "outside": _link("../secret"),
}


def _json(value: Any) -> str:
    """JSON of a value in which {"literal": name} stands for a text of LITERALS."""
    if isinstance(value, dict):
        if value.keys() == {"literal"} and value["literal"] in LITERALS:
            return LITERALS[value["literal"]]
        return "{" + ",".join(f"{json.dumps(k)}:{_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return json.dumps(value)


class Damage:
    """Applies edits to a folder; an edit of what an earlier one destroyed does nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: str) -> Path:
        shards = sorted(self.folder.glob("model*.safetensors"))
        weights = shards[0] if shards else self.folder / SINGLE
        return {"weights": weights, "index": self.folder / INDEX}.get(file, self.folder / file)

    def bytes(self, file: str) -> bytes | None:
        path = self.path(file)
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 10**8:
            return None
        return path.read_bytes()

    def write(self, file: str, data: bytes) -> None:
        self.path(file).write_bytes(data)

    def object(self, file: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self.bytes(file) or b"")
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def header(self) -> tuple[dict[str, Any], bytes] | None:
        data = self.bytes("weights") or b""
        n = int.from_bytes(data[:8], "little")
        try:
            header = json.loads(data[8 : 8 + n])
        except (ValueError, RecursionError):
            return None
        return (header, data[8 + n :]) if isinstance(header, dict) and header else None

    def write_header(self, header: dict[str, Any], rest: bytes) -> None:
        text = _json(header).encode()
        self.write("weights", len(text).to_bytes(8, "little") + text + rest)

    def apply(self, e: dict[str, Any]) -> None:
        kind = e["kind"]
        if kind in ("extra", "piece model", "special", "remove"):
            self.place(e)
        elif kind in ("config", "forget key", "tokenizer", "replacements", "vocabulary"):
            self.settings(e)
        elif kind == "quantization":
            self.quantization(e)
        elif kind.startswith("index"):
            self.index(e)
        elif "tensor" in e or kind in ("metadata", "tensors"):
            self.tensors(e)
        else:
            self.raw(e)

    def place(self, e: dict[str, Any]) -> None:
        if e["kind"] == "piece model":
            (self.folder / "tokenizer.model").write_bytes(bytes(e["data"]))
            if not e["tokenizer"]:
                self.path("tokenizer.json").unlink(missing_ok=True)
            return
        path = self.folder / e["name"] if e["kind"] == "extra" else self.path(e["file"])
        if path.is_dir() and not path.is_symlink():
            return
        path.unlink(missing_ok=True)
        if e["kind"] != "remove":
            SPECIAL[e["what"]](path)

    def quantization(self, e: dict[str, Any]) -> None:
        """Sets a key wherever it is, or else in the outermost object."""
        found = self.object("config.json") or {}
        outer = found.get("quantization_config")
        if not isinstance(outer, dict):
            return
        places, key = [outer], e["key"]
        for place in places:
            places += [value for value in place.values() if isinstance(value, dict)]
        having = [place for place in places if key in place] or [outer]
        for place in having:
            place[key] = e["value"]
        self.write("config.json", _json(found).encode())

    def settings(self, e: dict[str, Any]) -> None:
        file = "config.json" if e["kind"] in ("config", "forget key") else "tokenizer.json"
        found = self.object(file)
        if found is None:
            return
        if e["kind"] == "config":
            found[e["key"]] = e["value"]
        elif e["kind"] == "forget key":
            found.pop(e["key"], None)
        elif e["kind"] == "tokenizer":
            found[e["part"]] = e["value"]
        elif e["kind"] == "replacements":
            one = {"type": "Replace", "pattern": e["pattern"], "content": e["content"]}
            found[e["part"]] = {"type": "Sequence", f"{e['part']}s": [one] * e["n"]}
        elif isinstance(model := found.get("model"), dict) and isinstance(model.get("vocab"), dict):
            names = sorted(model["vocab"])
            model["vocab"][names[e["token"] % len(names)]] = e["value"]
        self.write(file, _json(found).encode())

    def index(self, e: dict[str, Any]) -> None:
        found = self.object("index")
        if found is None:
            return
        if e["kind"] == "index key":
            found[e["key"]] = e["value"]
        elif isinstance(names := found.get("weight_map"), dict) and names:
            name = sorted(names)[e["tensor"] % len(names)]
            if e["kind"] == "index":
                names[name] = e["value"]
            else:
                names[e["name"]] = names.pop(name)
        self.write("index", _json(found).encode())

    def tensors(self, e: dict[str, Any]) -> None:
        found = self.header()
        if found is None:
            return
        header, rest = found
        names = sorted(header.keys() - {"__metadata__"})
        name = names[e.get("tensor", 0) % len(names)] if names else ""
        if e["kind"] == "metadata":
            header["__metadata__"] = e["value"]
        elif not isinstance(header.get(name), dict):
            return
        elif e["kind"] == "header":
            header[name][e["key"]] = e["value"]
        elif e["kind"] == "rename tensor":
            header[e["name"]] = header.pop(name)
        elif e["kind"] == "drop tensor":
            del header[name]
        elif e["kind"] == "swap tensors":
            other = names[e["other"] % len(names)]
            header[name], header[other] = header[other], header[name]
        elif isinstance(offsets := header[name].get("data_offsets"), list) and len(offsets) == 2:
            with contextlib.suppress(TypeError):
                header[name]["data_offsets"] = [
                    offsets[0] + e["by"],
                    offsets[1] + e["by"] + e["end"],
                ]
        self.write_header(header, rest)

    def raw(self, e: dict[str, Any]) -> None:
        file = e.get("file", "weights")
        data = self.bytes(file)
        if data is None:
            return
        at = e.get("at", 0) % (len(data) + 1)
        if e["kind"] == "truncate":
            data = data[:at]
        elif e["kind"] == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << e["bit"]]) + data[at + 1 :]
        elif e["kind"] == "insert":
            data = data[:at] + bytes(e["data"]) + data[at:]
        elif e["kind"] == "extend":
            data += b"\0" * e["n"]
        elif e["kind"] == "empty":
            data = b""
        elif e["kind"] == "encode":
            data = data.decode("latin-1").encode(e["encoding"])
        elif e["kind"] == "nest":
            data = LITERALS[e["literal"]].encode()
            if file == "weights":
                data = len(data).to_bytes(8, "little") + data
        elif e["kind"] == "header length":
            data = e["length"].to_bytes(8, "little") + data[8:]
        self.write(file, data)
        if e["kind"] == "holes":
            with contextlib.suppress(OSError):  # the largest size of the file system
                os.truncate(self.path(file), e["n"])


def peak(reset: bool = False) -> int | None:
    """Largest resident memory since the last reset, or None where the system does not tell.

    There the memory is not checked; one test says so.
    """
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    key = "VmRSS" if reset else "VmHWM"
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def state(folder: Path) -> dict[str, Any]:
    """Everything below a folder, links not followed, without reading special files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            content: Any = os.readlink(path)
        elif path.is_file() and status.st_size < 10**7:
            content = path.read_bytes()
        else:
            content = None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, content)
    return found


@contextlib.contextmanager
def refused(folder: Path, what: str) -> Iterator[None]:
    """Lets a refusal pass that says what is wrong."""
    try:
        yield
    except REFUSALS as error:
        names = {path.name for path in folder.iterdir()} | {*KEYS, *QUANTIZED}
        names |= {"config.json", "tokenizer.json", INDEX, SINGLE}
        named = any(name and name in str(error) for name in names)
        if not named:
            got = f"{type(error).__name__}: {error}"
            raise AssertionError(f"{what}: names no file and no key: {got}") from error
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def whole(model: PanguMoEForCausalLM, folder: Path) -> None:
    """Every parameter is what the files hold, and every tensor of the files has its parameter."""
    parts, files = dict(released(model)), [folder / SINGLE]
    quantized = not isinstance(model.layers[0].moge.w_down, torch.Tensor)
    if quantized:
        parts = {name: part for name, part in parts.items() if ".experts." not in name}
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_bytes())
        files = [folder / name for name in {*index["weight_map"].values()}]
    seen = set()
    for path in files:
        assert path.parent == folder
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                if quantized and ".experts." in name:  # another config may give it another name
                    continue
                tensor = shard.get_tensor(name)
                assert torch.equal(tensor.nan_to_num(7.0), parts[name].nan_to_num(7.0)), (
                    f"{name} is not what the file holds"
                )
                assert name not in seen, f"{name} is in two files"
                seen.add(name)
    assert seen == parts.keys(), f"not filled: {parts.keys() - seen}"
    if not quantized:
        assert sum(x.numel() for x in parts.values()) == model.parameter_counts()[0]


def run(folder: Path, name: str) -> tuple[Any, str]:
    """Exit code and standard error of one command of the command line; the rates are left out."""
    args = {
        "generate": ["generate", str(folder), "aaab", "--max-new-tokens", "3", "--seed", "1"],
        "inspect": ["inspect", str(folder)],
        "routers": ["inspect", str(folder), "--prompt", "aaab"],
        "convert": ["convert", str(folder), str(folder.parent / "out"), "--max-shard-size", "4KB"],
    }[name]
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(args)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    if code == 0 and name == "convert":
        made = folder.parent / "out"
        whole(from_pretrained(made), made)
        shutil.rmtree(made)
    return code, "" if code == 0 else err.getvalue()


def command(folder: Path, name: str) -> None:
    """One command ends well, or with one line and exit code 2."""
    code, err = run(folder, name)
    if code != 0:
        assert code == 2, f"{name}: exit code {code}"
        assert len(err.splitlines()) == 1, f"{name}: not one line: {err}"
        made = folder.parent / "out"
        assert not made.exists(), f"{name} failed and left {made}"


def check(case: dict[str, Any]) -> None:
    """Reads the folder of a case; raises AssertionError if anything but a refusal goes wrong."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        folder = room / "folder"
        folder.mkdir()
        for file, data in base(case["sharded"], case.get("scheme", "")).items():
            (folder / file).write_bytes(data)
        secret = base(False)[SINGLE]
        (room / "secret.safetensors").write_bytes(secret)
        (room / "secret").write_bytes(b"{}")
        damage = Damage(folder)
        for e in case["edits"]:
            with contextlib.suppress(RecursionError):  # of a second edit of a deep file
                damage.apply(e)
        before = state(room)
        # of their blocks: holes have none
        sizes = sum(
            512 * p.stat().st_blocks for p in folder.iterdir() if not p.is_symlink() and p.is_file()
        )
        rest, start = peak(reset=True), time.process_time()

        with refused(folder, "read_config"):
            read_config(folder)
        with refused(folder, "load_tokenizer"):
            tokenizer = load_tokenizer(folder)
            tokenizer.decode(tokenizer.encode("aaab"))
        model = None
        with refused(folder, "from_pretrained"):
            model = from_pretrained(folder)
        if case["command"]:
            command(folder, case["command"])

        seconds, most = time.process_time() - start, peak()
        assert seconds < MOST_SECONDS, f"{seconds:.1f} s"
        if most is not None and rest is not None:
            grown = most - rest
            assert grown < 2 * sizes + MOST_MEMORY, f"{grown / 2**20:.0f} MiB for {sizes:,} bytes"
            check.worst = (max(check.worst[0], seconds), max(check.worst[1], grown))  # type: ignore[attr-defined]
        if model is not None:
            whole(model, folder)
            del model
        assert state(room) == before, "the folder, or something beside it, was changed"


check.worst = (0.0, 0)  # type: ignore[attr-defined]
"""Most seconds and bytes of one case, for who runs many."""
