"""Folders in the released layout: read, written back bit for bit, and refused if damaged."""

import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from moge_ops import _files
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint
from moge_ops.models.checkpoint import from_pretrained, read_config, released, save_pretrained
from moge_ops.models.layout import released_count, released_shapes
from moge_ops.statistics import RouterStatistics

GOLDEN = Path(__file__).parent / "data" / "pangu_tiny"
INDEX = "model.safetensors.index.json"
FIRST = "model.layers.0.mlp.experts.3.up_proj.weight"


def small_model(**changes: Any) -> PanguMoEForCausalLM:
    sizes = {
        "vocab_size": 20,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_groups": 2,
        "moe_intermediate_size": 5,
        "shared_expert_intermediate_size": 7,
    }
    model = PanguMoEForCausalLM(PanguMoEConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape))
    return model


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_pretrained(small_model(), tmp_path / "single")
    return tmp_path / "single"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_pretrained(small_model(), tmp_path / "sharded", max_shard_size=3000)
    return tmp_path / "sharded"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard_of(folder: Path, name: str) -> Path:
    return folder / str(json.loads((folder / INDEX).read_text())["weight_map"][name])


class TestRoundTrip:
    def test_the_released_layout_bit_for_bit(self, tmp_path: Path) -> None:
        save_pretrained(from_pretrained(GOLDEN), tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
        for path in tmp_path.iterdir():
            assert path.read_bytes() == (GOLDEN / path.name).read_bytes(), path.name

    def test_every_tensor_has_its_place(self) -> None:
        model, tensors = from_pretrained(GOLDEN), load_file(GOLDEN / "model.safetensors")
        parts = dict(released(model))
        assert parts.keys() == tensors.keys()
        assert all(torch.equal(parts[name], tensors[name]) for name in tensors)
        assert sum(x.numel() for x in tensors.values()) == model.parameter_counts()[0]
        assert not model.training

    @pytest.mark.parametrize("changes", [{}, {"shared_expert_intermediate_size": 0}])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_shards_and_dtypes(
        self, dtype: torch.dtype, changes: dict[str, Any], tmp_path: Path
    ) -> None:
        model = small_model(**changes).to(dtype)
        save_pretrained(model, tmp_path, max_shard_size=2000)
        index = json.loads((tmp_path / INDEX).read_text())
        weights = sum(p.nbytes for p in model.parameters())
        assert index["metadata"]["total_size"] == weights
        files = sorted(tmp_path.glob("*.safetensors"))
        n = len(files)
        assert n >= weights / 2000
        names = [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
        assert [p.name for p in files] == names
        held = {}
        for path in files:
            tensors = load_file(path)
            assert len(tensors) == 1 or sum(x.nbytes for x in tensors.values()) <= 2000
            held.update(dict.fromkeys(tensors, path.name))
        assert held == index["weight_map"]

        again = from_pretrained(tmp_path).state_dict()
        for name, want in model.state_dict().items():
            assert again[name].dtype is dtype
            assert torch.equal(again[name], want), name

    def test_another_dtype_than_the_files(self, single: Path) -> None:
        model, want = from_pretrained(single, dtype=torch.bfloat16), from_pretrained(single)
        for p, q in zip(model.parameters(), want.parameters(), strict=True):
            assert torch.equal(p, q.bfloat16())

    @pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
    def test_the_config_says_the_dtype_and_keeps_unknown_keys(
        self, key: str, single: Path, tmp_path: Path
    ) -> None:
        def change(values: dict[str, Any]) -> None:
            del values["torch_dtype"]
            values.update({key: "float32", "of_another_tool": {"a": [1, None]}})

        edit(single / "config.json", change)
        save_pretrained(from_pretrained(single, dtype=torch.float16), tmp_path / "half")
        written = json.loads((tmp_path / "half" / "config.json").read_text())
        want = json.loads((single / "config.json").read_text())
        assert written == {**want, key: "float16"}

    def test_a_config_without_a_dtype(self, single: Path) -> None:
        edit(single / "config.json", lambda values: values.pop("torch_dtype"))
        assert from_pretrained(single).embed.weight.dtype is torch.float32

    def test_the_cache_of_a_hub_has_links(self, single: Path, tmp_path: Path) -> None:
        folder = tmp_path / "snapshot"
        folder.mkdir()
        for path in single.iterdir():
            (folder / path.name).symlink_to(path)
        assert from_pretrained(folder).parameter_counts() == small_model().parameter_counts()

    @pytest.mark.parametrize(
        ("size", "files"), [("1KB", 15), ("1 KiB", 14), ("1000", 15), (1024, 14), ("2MB", 1)]
    )
    def test_sizes_of_shards(self, size: int | str, files: int, tmp_path: Path) -> None:
        save_pretrained(small_model(), tmp_path, max_shard_size=size)
        assert len(list(tmp_path.glob("*.safetensors"))) == files

    def test_a_tensor_that_is_larger_gets_a_file_of_its_own(self, tmp_path: Path) -> None:
        model = small_model()
        save_pretrained(model, tmp_path, max_shard_size=1)
        assert len(list(tmp_path.glob("*.safetensors"))) == len(list(released(model)))

    @pytest.mark.parametrize("size", [0, -1, "5 apples", "GB", 1.5])
    def test_no_size(self, size: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"max_shard_size must be .* got"):
            save_pretrained(small_model(), tmp_path, max_shard_size=size)

    def test_weights_are_not_overwritten(self, single: Path, sharded: Path) -> None:
        for folder in (single, sharded):
            before = {p.name: p.read_bytes() for p in folder.iterdir()}
            with pytest.raises(FileExistsError, match="must have no weights yet, got model"):
                save_pretrained(small_model(), folder)
            assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    def test_an_interrupted_write_is_not_a_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from moge_ops.models import checkpoint

        written = []

        def save_two(*args: Any, **kwargs: Any) -> None:
            if len(written) == 2:
                raise OSError("no space left on device")
            written.append(args)
            save_file(*args, **kwargs)

        monkeypatch.setattr(checkpoint, "save_file", save_two)
        with pytest.raises(OSError, match="no space"):
            save_pretrained(small_model(), tmp_path, max_shard_size=2000)
        assert not list(tmp_path.iterdir())
        monkeypatch.undo()
        save_pretrained(small_model(), tmp_path, max_shard_size=2000)
        from_pretrained(tmp_path)

    @pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
    def test_an_interrupt_at_any_move_leaves_the_old_files(
        self, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before or after it: the folder is the old one until the last file has moved."""
        replace, moves = os.replace, []
        old = {"config.json": "old", "tokenizer.json": "old too", "other.txt": "not ours"}

        def write(folder: Path, at: int) -> None:
            moves.clear()
            folder.mkdir()
            for name, text in old.items():
                (folder / name).write_text(text)

            def interrupted(*args: Any) -> None:
                moves.append(args)
                stop = len(moves) == at
                if late or not stop:
                    replace(*args)
                if stop:
                    raise KeyboardInterrupt

            monkeypatch.setattr(os, "replace", interrupted)
            with _files.staged(folder, last="config.json") as stage:
                for name in ("a.safetensors", "config.json", "tokenizer.json"):
                    (stage / name).write_text("new")

        write(tmp_path / "whole", at=99)
        assert len(moves) == 5
        for at in range(1, 6):
            folder = tmp_path / str(at)
            with pytest.raises(KeyboardInterrupt):
                write(folder, at)
            assert {path.name: path.read_text() for path in folder.iterdir()} == old, at

    def test_a_folder_that_was_made_is_removed_again(self, tmp_path: Path) -> None:
        (tmp_path / "here").mkdir()
        with pytest.raises(OSError, match="too long"):
            save_pretrained(small_model(), tmp_path / "here" / "a" / ("b" * 300) / "c")
        assert not list((tmp_path / "here").iterdir())

    def test_a_link_is_replaced_and_what_it_led_to_stays(self, tmp_path: Path) -> None:
        kept, out = tmp_path / "kept.json", tmp_path / "out"
        kept.write_text("kept")
        out.mkdir()
        for name in ("config.json", INDEX):
            (out / name).symlink_to(kept if name == "config.json" else tmp_path / "nowhere")
        # a link to an index that is not there is no weights
        save_pretrained(small_model(), out, max_shard_size=2000)
        assert kept.read_text() == "kept"
        assert not (tmp_path / "nowhere").exists()
        assert not (out / "config.json").is_symlink()
        from_pretrained(out)

    def test_the_file_that_makes_a_folder_whole_comes_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        move, moved = os.replace, list[str]()

        def moves(old: Path, new: Path) -> None:
            moved.append(new.name)
            move(old, new)

        monkeypatch.setattr(os, "replace", moves)
        save_pretrained(small_model(), tmp_path, max_shard_size=2000)
        assert sorted(moved) == sorted(path.name for path in tmp_path.iterdir())
        assert moved[-1] == "config.json"

    def test_a_directory_in_the_place_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").mkdir()
        with pytest.raises(IsADirectoryError, match=r"config\.json must be a file or not exist"):
            save_pretrained(small_model(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


FULL = """
import resource, sys
import torch
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.statistics import RouterStatistics

model = from_pretrained(sys.argv[1])
statistics = RouterStatistics()
statistics.sums = {"task": {"layer": torch.ones(3, 4, 16, dtype=torch.float64)}}
statistics.save(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (
    lambda: save_pretrained(model, sys.argv[2]),
    lambda: save_pretrained(model, sys.argv[2], max_shard_size=900),
    lambda: statistics.save(sys.argv[3]),
):
    try:
        write()
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
def test_no_space_leaves_nothing_and_destroys_nothing(single: Path, tmp_path: Path) -> None:
    out, statistics = tmp_path / "out", tmp_path / "law.pt"
    done = subprocess.run(
        [sys.executable, "-c", FULL, single, out, statistics],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(said) == 3
    assert re.search(r"out/.*safetensors cannot be written: .*too large", said[0])
    assert "out/" in said[1]
    assert not out.exists()
    assert RouterStatistics.load(statistics).sums["task"]["layer"].eq(1).all()
    assert {path.name for path in tmp_path.iterdir()} == {"single", "law.pt"}


def make_special(path: Path, kind: str) -> None:
    """Puts something at ``path`` that is no regular file."""
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


SPECIAL = ["a pipe", "a directory", "a socket", "a device"]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["config.json", INDEX, "shard", "model.safetensors"])
def test_only_regular_files_are_read(
    name: str, kind: str, single: Path, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = single if name == "model.safetensors" else sharded
    name = shard_of(sharded, FIRST).name if name == "shard" else name
    monkeypatch.chdir(folder)  # the name of a socket must be short
    make_special(Path(name), kind)
    with pytest.raises(ValueError, match=f"{name} must be a regular file, got {kind}$"):
        from_pretrained(folder)


def test_a_pipe_that_comes_after_the_look(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    look = _files.regular

    def swapped(path: Path) -> int:
        size = look(path)
        os.replace(tmp_path / "pipe", path)
        return size

    monkeypatch.setattr(_files, "regular", swapped)
    with pytest.raises(ValueError, match=r"config\.json must be a regular file, got a pipe$"):
        from_pretrained(single)


def test_a_loop_of_links(single: Path) -> None:
    (single / "config.json").unlink()
    (single / "config.json").symlink_to("config.json")
    with pytest.raises(OSError, match=r"config\.json"):
        from_pretrained(single)


@pytest.mark.parametrize(("name", "most"), [("config.json", 2**20), (INDEX, 64 * 2**20)])
def test_a_file_without_end_is_not_read(name: str, most: int, sharded: Path) -> None:
    with (sharded / name).open("wb") as file:
        file.truncate(10**13)  # holes, which take no space
    with pytest.raises(ValueError, match=f"{name} must have at most {most:,} bytes, got 10,000,0"):
        from_pretrained(sharded)


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000])
@pytest.mark.parametrize("name", ["config.json", INDEX, "model.safetensors"])
def test_deep_nesting_is_a_sentence(name: str, deep: str, single: Path, sharded: Path) -> None:
    folder = sharded if name == INDEX else single
    data = deep.encode()
    if name == "model.safetensors":
        data = len(data).to_bytes(8, "little") + data
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is (not JSON that can|truncated or corrupted)"):
        from_pretrained(folder)


class TestDamage:
    """Every message names the file, and the tensor if there is one; nothing is allocated."""

    @pytest.fixture(autouse=True)
    def _no_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def to_empty(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("memory was taken for a folder that does not fit")

        monkeypatch.setattr(PanguMoEForCausalLM, "to_empty", to_empty)

    def test_no_folder_and_no_config(self, tmp_path: Path, single: Path) -> None:
        (single / "config.json").unlink()
        for folder in (tmp_path / "nowhere", single):
            with pytest.raises(FileNotFoundError, match=rf"{folder} has no config\.json"):
                from_pretrained(folder)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", r"config\.json is not JSON: "),
            ("\xff", r"config\.json is not JSON: "),
            ("[1]", r"config\.json must hold an object, got list"),
            ("{}", r"config\.json: the config lacks vocab_size, "),
        ],
    )
    def test_config(self, text: str, said: str, single: Path) -> None:
        (single / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=said):
            from_pretrained(single)

    def test_config_of_another_model(self, single: Path) -> None:
        edit(single / "config.json", lambda values: values.update(model_type="llama"))
        with pytest.raises(ValueError, match=r"config\.json: model_type must be 'PanguProMoE'"):
            read_config(single)

    def test_no_weights(self, single: Path) -> None:
        (single / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors nor model"):
            from_pretrained(single)

    def test_a_pickle_is_refused_and_not_run(self, single: Path, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "run"),)

        (single / "model.safetensors").unlink()
        (single / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError, match=r"must hold safetensors, got pytorch_model\.bin: a"):
            from_pretrained(single)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "file",
        ["../other.safetensors", "/etc/other.safetensors", "a/b.safetensors", "..\\x.safetensors",
         "a.safetensors/../../other.safetensors", "pytorch_model.bin", "", 3, None],
    )  # fmt: skip
    def test_an_index_stays_in_its_folder(self, file: Any, sharded: Path) -> None:
        shutil.copy(shard_of(sharded, FIRST), sharded.parent / "other.safetensors")
        edit(sharded / INDEX, lambda values: values["weight_map"].update({FIRST: file}))
        with pytest.raises(ValueError, match="must name safetensors files of its own folder") as e:
            from_pretrained(sharded)
        assert f"got {file!r} for {FIRST}" in str(e.value)
        assert INDEX in str(e.value)

    def test_an_index_names_a_missing_file(self, sharded: Path) -> None:
        path = shard_of(sharded, FIRST)
        first = next(n for n, f in json.loads((sharded / INDEX).read_text())["weight_map"].items()
                     if f == path.name)  # fmt: skip
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"names {path.name} for {first}: no such file"):
            from_pretrained(sharded)

    @pytest.mark.parametrize("stem", ["x" * 300, "\0", "\ud800", "a\nb"], ids=ascii)
    def test_an_index_names_what_cannot_be_a_file(self, stem: str, sharded: Path) -> None:
        edit(sharded / INDEX, lambda v: v["weight_map"].update({FIRST: f"{stem}.safetensors"}))
        with pytest.raises(
            FileNotFoundError, match=f"(?s){INDEX} names .* for {FIRST}: no such file"
        ):
            from_pretrained(sharded)

    @pytest.mark.parametrize("values", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
    def test_an_index_without_a_map(self, values: dict[str, Any], sharded: Path) -> None:
        (sharded / INDEX).write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"index\.json must have a weight_map"):
            from_pretrained(sharded)

    def test_an_index_that_a_file_does_not_keep(self, sharded: Path) -> None:
        path = shard_of(sharded, FIRST)
        edit_tensors(path, lambda tensors: tensors.pop(FIRST))
        with pytest.raises(ValueError, match=f"missing: {FIRST} in {path.name}, where the index"):
            from_pretrained(sharded)

    def test_a_file_with_more_than_the_index_says(self, sharded: Path) -> None:
        path = shard_of(sharded, "lm_head.weight")
        assert path != shard_of(sharded, FIRST)
        tensor = load_file(shard_of(sharded, FIRST))[FIRST]
        edit_tensors(path, lambda tensors: tensors.update({FIRST: tensor + 1}))
        with pytest.raises(
            ValueError, match=f"unexpected: {FIRST} in {path.name}, where the index"
        ):
            from_pretrained(sharded)

    def test_tensors_that_do_not_fit(self, single: Path) -> None:
        def change(tensors: dict[str, Tensor]) -> None:
            del tensors["model.norm.weight"], tensors["model.layers.1.mlp.router_scale"]
            tensors["model.layers.2.mlp.gate.weight"] = torch.zeros(1)
            tensors[FIRST] = tensors[FIRST].T.contiguous()
            tensors["lm_head.weight"] = tensors["lm_head.weight"].half()
            tensors["model.embed_tokens.weight"] = torch.zeros(20, 12, dtype=torch.int32)

        edit_tensors(single / "model.safetensors", change)
        with pytest.raises(ValueError, match=r"does not fit its config\.json") as e:
            from_pretrained(single)
        at = "in model.safetensors"
        assert {line.strip() for line in str(e.value).splitlines()[1:]} == {
            "missing: model.norm.weight",
            "missing: model.layers.1.mlp.router_scale",
            f"unexpected: model.layers.2.mlp.gate.weight {at}",
            f"misshapen: {FIRST} {at} must be [5, 12], got [12, 5]",
            f"wrong dtype: lm_head.weight {at} must be F32, got F16",
            f"wrong dtype: model.embed_tokens.weight {at} must be F32, got I32",
        }

    @pytest.mark.parametrize(
        "sizes",
        [
            {"num_hidden_layers": 10**6},
            {"num_hidden_layers": 2**31 - 1, "num_experts": 2 * 10**9},
            {"num_experts": 10**6},
            {"num_experts": 10**9},
        ],
        ids=str,
    )
    def test_nothing_is_built_for_tensors_that_the_files_lack(
        self, sizes: dict[str, int], single: Path
    ) -> None:
        edit(single / "config.json", lambda values: values.update(sizes))
        before = time.perf_counter()
        with pytest.raises(ValueError, match=r"does not fit its config\.json: num_.* tensors, the"):
            from_pretrained(single)
        assert time.perf_counter() - before < 1

    def test_a_config_is_compared_before_a_model_is_built(
        self, single: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def built(*args: Any) -> None:
            raise AssertionError("a model was built for a folder that does not fit")

        monkeypatch.setattr(PanguMoEForCausalLM, "__init__", built)
        edit(single / "config.json", lambda values: values.update(vocab_size=2**31 - 1))
        with pytest.raises(ValueError, match=r"misshapen: lm_head\.weight .* \[2147483647, 12\]"):
            from_pretrained(single)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *((key, value) for key in ("vocab_size", "hidden_size", "num_experts",
                "num_hidden_layers", "max_position_embeddings", "shared_expert_intermediate_size")
              for value in (10**18, 10**30, 2**31, -1, 1.0, "3", None, True, [3], {})),
            *((key, value) for key in ("rope_theta", "rms_norm_eps", "initializer_range",
                "router_aux_loss_coef", "attention_dropout")
              for value in (float("nan"), float("inf"), -1, -1e-9, 10**400, "x", None, True, [1])),
            ("rope_theta", 0), ("rope_theta", 0.0), ("attention_dropout", 1.5),
            *((key, value) for key in ("bos_token_id", "eos_token_id")
              for value in (1.5, -1, 20, 10**30, "1", True, [1.5], [True], [3, 20], {"a": 1})),
            ("bos_token_id", [1]), ("eos_token_id", [[1]]),
        ],
    )  # fmt: skip
    def test_a_value_that_no_model_has_is_named_with_its_file(
        self, key: str, value: Any, single: Path
    ) -> None:
        edit(single / "config.json", lambda values: values.update({key: value}))
        with pytest.raises(ValueError, match=rf"{single}/config\.json: {key} must be .*, got "):
            from_pretrained(single)

    def test_many_problems_are_counted(self, single: Path) -> None:
        edit(single / "config.json", lambda values: values.update(num_hidden_layers=4))
        with pytest.raises(ValueError, match="does not fit") as e:
            from_pretrained(single)
        lines = str(e.value).splitlines()
        total = 2 * (2 + 8 + 2 + 4 * 3 + 3)  # norms, attention, router, experts, shared expert
        assert len(lines) == 22
        assert lines[-1].strip() == f"and {total - 20} more"

    @pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", 5, "nonsense"])
    def test_a_dtype_that_is_no_weight(self, dtype: Any, single: Path) -> None:
        edit(single / "config.json", lambda values: values.update(torch_dtype=dtype))
        with pytest.raises(ValueError, match=rf"must hold float64 \| .*, got {dtype}"):
            from_pretrained(single)

    def test_a_truncated_file_names_the_first_tensor_that_is_cut(self, sharded: Path) -> None:
        path = shard_of(sharded, FIRST)
        with safe_open(path, "pt") as file:
            names = file.offset_keys()
        size = path.stat().st_size
        with path.open("r+b") as raw:
            raw.truncate(size - 1)
        with pytest.raises(ValueError, match=f"{path.name} is truncated or corrupted") as e:
            from_pretrained(sharded)
        assert str(e.value).endswith(f"the first tensor that is not whole is {names[-1]}")
        with path.open("r+b") as raw:
            raw.truncate(size - bytes_of(names[1:]))
        with pytest.raises(ValueError, match=f"not whole is {names[1]}$"):
            from_pretrained(sharded)

    @pytest.mark.parametrize("keep", [0, 5, 8, 40])
    def test_a_file_that_ends_in_its_header(self, keep: int, sharded: Path) -> None:
        path = shard_of(sharded, FIRST)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match=f"{path.name} is truncated or corrupted"):
            from_pretrained(sharded)

    @pytest.mark.parametrize(
        ("at", "byte"), [(0, b"\xff"), (7, b"\x7f"), (8, b"["), (12, b"\x00"), (30, b"\xff")]
    )
    def test_a_corrupted_header(self, at: int, byte: bytes, single: Path) -> None:
        path = single / "model.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:at] + byte + data[at + 1 :])
        with pytest.raises(ValueError, match=f"{path.name} is truncated or corrupted"):
            from_pretrained(single)


@pytest.mark.parametrize("ids", [None, 0, 19, [], [0, 19]])
def test_ids_of_the_vocabulary(ids: Any, single: Path) -> None:
    edit(single / "config.json", lambda values: values.update(eos_token_id=ids))
    assert read_config(single).eos_token_id == ids


@pytest.mark.parametrize("shared", [0, 7])
def test_names_and_shapes_without_a_model(shared: int) -> None:
    model = small_model(shared_expert_intermediate_size=shared)
    want = [(name, list(part.shape)) for name, part in released(model)]
    assert list(released_shapes(model.config)) == want
    assert released_count(model.config) == len(want)


def bytes_of(names: list[str]) -> int:
    """Bytes of some tensors of a float32 folder of :func:`small_model`."""
    parts = dict(released(small_model()))
    return sum(parts[name].nbytes for name in names)


PEAK = """
import sys
from pathlib import Path
import torch
from moge_ops.models.checkpoint import from_pretrained

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

from_pretrained(sys.argv[1])  # so that first uses allocate what they need
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
before = status("VmRSS")
model = from_pretrained(sys.argv[2])
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_of_memory_is_the_weights_and_one_shard(tmp_path: Path, single: Path) -> None:
    model = small_model(vocab_size=2000, hidden_size=384, moe_intermediate_size=640, num_experts=16)
    weights = sum(p.nbytes for p in model.parameters())
    save_pretrained(model, tmp_path / "large", max_shard_size="8MB")
    shard = max(p.stat().st_size for p in (tmp_path / "large").glob("*.safetensors"))
    assert weights > 10 * shard
    done = subprocess.run(
        [sys.executable, "-c", PEAK, single, tmp_path / "large"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = int(done.stdout)
    assert weights <= peak <= weights + shard + 4 * 2**20  # 4 MiB for names, headers, fragments


@pytest.mark.parametrize("how", ["fewer", "more", "smaller"])
def test_a_file_that_changes_between_look_and_load(
    how: str, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = single / "model.safetensors"
    tensors = load_file(path)
    if how == "fewer":
        del tensors["model.norm.weight"]
    elif how == "more":
        tensors["x"] = torch.ones(1)
    else:  # broadcast, it would fill the parameter
        tensors["model.norm.weight"] = torch.ones(1)
    look = checkpoint.checked

    def changes(*args: Any) -> Any:
        found = look(*args)
        save_file(tensors, path)
        return found

    monkeypatch.setattr(checkpoint, "checked", changes)
    name = "x" if how == "more" else r"model\.norm\.weight"
    with pytest.raises(ValueError, match=rf"was changed while it was read: .*{name}$"):
        from_pretrained(single)


@pytest.mark.slow
def test_a_file_that_does_not_fit_into_the_addresses(single: Path) -> None:
    path = single / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(10**13)  # holes, which take no space
    program = (
        "import resource, sys\n"
        "from moge_ops.models.checkpoint import from_pretrained\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        "from_pretrained(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", program, str(single)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith(f"OSError: {path} cannot be read: "), done.stderr
