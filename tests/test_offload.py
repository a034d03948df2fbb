"""Models whose experts come from their folder when they are needed."""

import copy
import gc
import io
import itertools
import linecache
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moge_ops import offload
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.offload import _loading, _pool, _reading
from moge_ops.quant import SCHEMES, quantize_experts
from moge_ops.statistics import RouterStatistics
from moge_ops.testing import backend

pytestmark = pytest.mark.slow

LAYERS, E, K = 4, 8, 4
SIZES = {
    "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_experts": E, "num_experts_per_tok": K, "num_groups": 2,
    "moge_intermediate_size": 32, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 16, "eos_token_id": None, "initializer_range": 0.3,
}  # fmt: skip
del SIZES["moge_intermediate_size"]


def make(folder: Path, kind: str = "float32", max_shard_size: int = 10**9) -> Path:
    """A folder of small layers that differ."""
    torch.manual_seed(1)
    model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES))
    if kind in SCHEMES:
        group = {"int4_w4a16": 32}.get(kind)
        quantize_experts(model.to(torch.bfloat16), kind, group_size=group)
    else:
        model.to(getattr(torch, kind))
    save_pretrained(model, folder, max_shard_size=max_shard_size)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return make(tmp_path_factory.mktemp("plain") / "folder", max_shard_size=100_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "own")


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    if threads():
        gc.collect()  # slow beside the other tests' objects, and rarely needed
    assert not threads()


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("moge_ops.offload")]


def open_files() -> list[str]:
    """Files of weights that this process has open."""
    links = Path("/proc/self/fd").iterdir()
    paths = [os.readlink(fd) for fd in links if os.path.lexists(fd)]
    return [path for path in paths if path.endswith(".safetensors")]


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes outside the experts, and of one expert."""
    model = offload.load(folder)
    return sum(p.nbytes for p in model.parameters()), offload.of(model).slot_bytes


def loaded(folder: Path, slots: int, **options: Any) -> tuple[Any, offload.ExpertStore]:
    rest, each = sizes(folder)
    model = offload.load(folder, rest + slots * each, **options)
    store = offload.of(model)
    assert store.slots == slots
    return model, store


def prompts(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SIZES["vocab_size"], shape, generator=generator)  # type: ignore[call-overload,no-any-return]


def watched(model: Any) -> tuple[list[tuple[int, set[int]]], Callable[[], None]]:
    """Which experts each layer needs, while the model runs."""
    seen: list[tuple[int, set[int]]] = []

    def hook(i: int) -> Any:
        def of_layer(module: MoGE, args: Any, out: Any) -> None:
            assert isinstance(out, MoGEOutput)
            seen.append((i, set(out.gating.counts.nonzero().flatten().tolist())))

        return of_layer

    layers = [m for m in model.modules() if isinstance(m, MoGE)]
    handles = [m.register_forward_hook(hook(i)) for i, m in enumerate(layers)]
    return seen, lambda: [handle.remove() for handle in handles] and None


class TestSameBits:
    @pytest.mark.parametrize("in_memory", [False, True], ids=["files", "memory"])
    @pytest.mark.parametrize("name", ["cpu", "torch"])
    @pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64", *SCHEMES])
    def test_as_the_resident_model(
        self, tmp_path: Path, kind: str, name: str, in_memory: bool
    ) -> None:
        make(tmp_path / "x", kind)
        resident = from_pretrained(tmp_path / "x").requires_grad_(False)
        rest, each = sizes(tmp_path / "x")
        copied = E if name == "torch" or kind in ("float64", "int4_w4a8") else 0
        for slots in (E, 2 * E + 1, LAYERS * E):
            room = slots if slots == LAYERS * E else slots + copied
            with backend(name):
                model = _loading._load(
                    tmp_path / "x",
                    rest + room * each,
                    None,
                    None,
                    torch.device("cpu"),
                    None,
                    in_memory,
                )
            store = offload.of(model)
            assert store.slots == slots
            with backend(name), store:
                for ids in (prompts(3, 9), prompts(1, 1), prompts(2, 33), prompts(5, 1)):
                    assert torch.equal(resident(ids), model(ids))
                want = resident.generate(prompts(2, 5), 6, temperature=0)
                assert torch.equal(want, model.generate(prompts(2, 5), 6, temperature=0))
                sampled = [
                    m.generate([[1, 2], [3]], 6, generator=torch.Generator().manual_seed(2))
                    for m in (resident, model)
                ]
                assert torch.equal(*sampled)

    @pytest.mark.parametrize("slots", [E, 13, LAYERS * E])
    def test_routing_dropped_ids_and_padding(self, shared: Path, slots: int) -> None:
        resident = from_pretrained(shared).requires_grad_(False)
        model, store = loaded(shared, slots)
        routing = torch.randint(-1, E + 2, (2, 6, LAYERS, K))
        mask = torch.ones(2, 6, dtype=torch.bool)
        mask[0, :3] = False
        with store:
            for options in ({"routing": routing}, {"attention_mask": mask}):
                assert torch.equal(
                    resident(prompts(2, 6), **options), model(prompts(2, 6), **options)
                )
            none = torch.full_like(routing, -1)
            want = resident(prompts(2, 6), routing=none)
            assert torch.equal(want, model(prompts(2, 6), routing=none))

    def test_places_in_the_pool_change_nothing(self, tmp_path: Path) -> None:
        """Of widths at which the torch backend multiplies neighbours as a batch, others alone."""
        torch.manual_seed(0)
        wide = {**SIZES, "hidden_size": 256, "moe_intermediate_size": 64}
        save_pretrained(PanguMoEForCausalLM(PanguMoEConfig(**wide)).double(), tmp_path / "x")
        resident = from_pretrained(tmp_path / "x").requires_grad_(False)
        rest, each = sizes(tmp_path / "x")
        model = offload.load(tmp_path / "x", rest + (4 * E - 1) * each)  # with a copy of E
        with offload.of(model) as store:
            assert store.slots == 3 * E - 1
            for seed in range(4):
                for length in (5, 17):
                    ids = prompts(1, length, seed=seed)
                    assert torch.equal(resident(ids), model(ids))

    def test_dropped_ids_take_no_slot(self, shared: Path) -> None:
        model, store = loaded(shared, E)
        layer, x = model.layers[0].moge, torch.randn(3, 64)
        routing = torch.tensor([[1, 2, 5, 6], [1, -1, 5, -1], [-1, -1, -1, -1]])
        store.looks_ahead = False
        with store:
            model.layers[1].moge(x, routing=torch.tensor([[0, 3, 4, 7]] * 3))  # in the first slots
            want = layer(x, routing=routing)
            used = {store.pool._slot_of[0, e] for e in (1, 2, 5, 6)}
            assert 0 not in used
            for weight in store.weights:
                for slot in set(range(E)) - used:
                    weight[slot] = torch.nan
            assert torch.equal(layer(x, routing=routing), want)

    def test_no_tokens(self, shared: Path) -> None:
        model, store = loaded(shared, E)
        layer: Any = model.layers[0].moge
        with store:
            assert layer(torch.zeros(0, 64)).shape == (0, 64)

    def test_votes_and_a_bias_and_nan(self, shared: Path) -> None:
        resident = from_pretrained(shared).requires_grad_(False)
        model, store = loaded(shared, E)
        x = torch.randn(7, 64)
        x[3] = torch.nan
        with store:
            for a, b in zip(resident.layers, model.layers, strict=True):
                a.moge.num_voted = b.moge.num_voted = 2
                assert torch.equal(a.moge(x).nan_to_num(7), b.moge(x).nan_to_num(7))

    def test_hf_class(self, shared: Path) -> None:
        pangu_auto = pytest.importorskip("moge_ops.integrations.pangu_auto")
        config = pangu_auto.PanguProMoEConfig.from_pretrained(shared)
        with torch.device("meta"):
            empty = pangu_auto.PanguProMoEForCausalLM(config)
        resident = pangu_auto.PanguProMoEForCausalLM.from_pretrained(shared)
        model, store = loaded(shared, 11, model=empty)
        assert model is empty
        with store, torch.no_grad():
            ids = prompts(2, 7)
            assert torch.equal(resident(ids).logits, model(ids).logits)
            options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
            assert torch.equal(resident.generate(ids, **options), model.generate(ids, **options))

    def test_two_models_of_one_folder(self, shared: Path) -> None:
        (one, a), (other, b) = loaded(shared, E), loaded(shared, 2 * E)
        with a, b:
            for i in range(4):
                ids = prompts(1, 3, seed=i)
                assert torch.equal(one(ids), other(ids))

    def test_routers_in_float32_beside_bfloat16(self, tmp_path: Path) -> None:
        model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES, router_dtype="float32"))
        for name, parameter in model.named_parameters():
            if not name.endswith(("moge.gate", "moge.router_scale")):
                parameter.data = parameter.data.bfloat16()
        save_pretrained(model, tmp_path / "x")
        offloaded, store = loaded(tmp_path / "x", E)
        assert offloaded.layers[0].moge.gate.dtype == torch.float32
        with store:
            resident = from_pretrained(tmp_path / "x").requires_grad_(False)
            assert torch.equal(resident(prompts(2, 9)), offloaded(prompts(2, 9)))

    def test_print_and_counts(self, shared: Path) -> None:
        model, store = loaded(shared, E)
        with store:
            assert model.parameter_counts() == from_pretrained(shared).parameter_counts()
            assert f"num_experts={E}, num_groups=2" in repr(model)
            assert f"slots={E}" in repr(model)

    def test_statistics(self, shared: Path) -> None:
        resident, (model, store) = from_pretrained(shared), loaded(shared, E)
        found = [RouterStatistics(), RouterStatistics()]
        with store, torch.no_grad():
            for statistics, m in zip(found, (resident, model), strict=True):
                with statistics.collect(m, "a"):
                    m(prompts(2, 9))
        for layer, sums in found[0].sums["a"].items():
            assert torch.equal(sums, found[1].sums["a"][layer])


class Rule:
    """What the pool must do, from the whole history at every turn, in one thread.

    What is expected to wait the longest makes room: ``d + L (1/p - 1)`` visits, where p counts a
    use n visits of its layer ago as 0.98^n.
    """

    def __init__(self, slots: int) -> None:
        self.slots, self.hits, self.misses = slots, 0, 0
        self.kept: set[tuple[int, int]] = set()
        self.visits: list[tuple[int, set[int]]] = []

    def wait(self, key: tuple[int, int]) -> float:
        layer, e = key
        turns = uses = 0.0
        for n, needed in enumerate(needed for i, needed in reversed(self.visits) if i == layer):
            turns += 0.98**n
            uses += 0.98**n * (e in needed)
        coming = layer - self.visits[-1][0]
        coming += LAYERS if coming <= 0 else 0
        return coming + LAYERS * (max(1.0, (turns + 1) / (uses + 0.5)) - 1)

    def layer(self, i: int, needed: set[int]) -> None:
        self.visits.append((i, needed))
        keys = {(i, e) for e in needed}
        missing = keys - self.kept
        self.hits, self.misses = self.hits + len(keys) - len(missing), self.misses + len(missing)
        spare = sorted(self.kept - keys, key=lambda key: (-round(self.wait(key), 9), key))
        self.kept -= set(spare[: max(0, len(self.kept | keys) - self.slots)])
        self.kept |= keys


class TestCounters:
    @pytest.mark.parametrize("slots", [E, E + 1, 12, 17, 25, LAYERS * E - 1])
    def test_are_those_of_the_rule(self, shared: Path, slots: int) -> None:
        model, store = loaded(shared, slots)
        store.looks_ahead = False
        seen, stop = watched(model)
        with store:
            for i in range(3):
                model(prompts(1, 20, seed=i))
                model.generate(prompts(1, 3, seed=i), 9)
        stop()
        rule = Rule(slots)
        for layer, needed in seen:
            rule.layer(layer, needed)
        assert (store.hits, store.misses) == (rule.hits, rule.misses)
        assert rule.hits > 0
        assert set(store.pool._slot_of) == rule.kept
        assert store.bytes_read == store.misses * store.slot_bytes
        assert store.slot_bytes == 3 * 64 * 32 * 4

    def test_everything_fits(self, shared: Path) -> None:
        model = offload.load(shared)
        store = offload.of(model)
        assert store.slots == LAYERS * E
        assert store.bytes_read == LAYERS * E * store.slot_bytes
        assert not threads()
        assert not open_files()
        model.generate(prompts(2, 4), 8)
        assert store.misses == 0
        assert store.hits > 0
        assert store.bytes_read == LAYERS * E * store.slot_bytes

    @pytest.mark.parametrize("spare", [3, E], ids=["3", "a layer"])
    def test_prefill_guesses_keep_what_they_fetched(self, shared: Path, spare: int) -> None:
        """Whatever fits beside the running layer is not waited for, and nothing is read twice."""
        model, store = loaded(shared, E + spare)
        ids = torch.arange(E).view(2, E // 2).repeat(8, 1)  # [16, K], all experts
        routing = ids[None, :, None].expand(1, 16, LAYERS, K)
        asked = store.pool._ask

        def later(*args: Any) -> None:
            while store.pool._ahead or len(store.pool._slot_of) > len(store.pool._whole):
                time.sleep(0.001)
            asked(*args)

        store.pool._ask = later  # type: ignore[method-assign]
        with store:
            for _ in range(3):
                model(prompts(1, 16), routing=routing)
        assert store.misses == 3 * (E + (LAYERS - 1) * (E - spare))
        assert store.hits == 3 * (LAYERS - 1) * spare
        assert store.bytes_read == 3 * LAYERS * E * store.slot_bytes

    def test_wrong_guesses_are_given_up(self, shared: Path) -> None:
        model, store = loaded(shared, 2 * E)
        with store:
            for i in range(200):
                ids = torch.randint(0, E // 2, (1, 1, LAYERS, 2))
                model(prompts(1, 1, seed=i), routing=torch.cat([ids, ids + E // 2], -1))
            before = store.bytes_read, store.misses
            for i in range(50):
                ids = torch.randint(0, E // 2, (1, 1, LAYERS, 2))
                model(prompts(1, 1, seed=i), routing=torch.cat([ids, ids + E // 2], -1))
            read = (store.bytes_read - before[0]) / store.slot_bytes
            assert read < 1.3 * (store.misses - before[1])


class TestBudget:
    def test_least(self, shared: Path) -> None:
        rest, each = sizes(shared)
        with pytest.raises(ValueError, match=r"resident must be at least 0\.\d+ GB, .* got 0\.\d+"):
            offload.load(shared, rest + E * each - 1)
        with offload.of(offload.load(shared, rest + E * each)) as store:
            assert store.slots == E
        with offload.of(offload.load(shared, "1GB")) as store:
            assert store.slots == LAYERS * E

    @pytest.mark.parametrize("wrong", ["8 apples", "", "-1GB", 0, -5, "0GB"])
    def test_no_size(self, shared: Path, wrong: Any) -> None:
        with pytest.raises(ValueError, match="resident must be"):
            offload.load(shared, wrong)

    @pytest.mark.parametrize("wrong", [1.5, True, [1]])
    def test_no_number(self, shared: Path, wrong: Any) -> None:
        with pytest.raises(TypeError, match="resident must be bytes or like '8GB', got"):
            offload.load(shared, wrong)

    def test_resident_set(self, shared: Path, tmp_path: Path) -> None:
        """The peak of memory grows by about the budget, for a folder three times as large."""
        sizes = {**SIZES, "hidden_size": 512, "moe_intermediate_size": 512, "num_experts": 32,
                 "num_hidden_layers": 8, "initializer_range": 0.02}  # fmt: skip
        torch.manual_seed(0)
        save_pretrained(PanguMoEForCausalLM(PanguMoEConfig(**sizes)), tmp_path / "x")
        size = sum(path.stat().st_size for path in (tmp_path / "x").glob("*.safetensors"))
        assert size > 750e6
        found = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / "x"), str(size // 3), str(shared)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        grown = int(found.stdout)
        assert 0.9 * size / 3 < grown < 1.05 * size / 3 + 8e6


PEAK = """
import sys, torch
from moge_ops import offload

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
offload.load(sys.argv[3])(torch.arange(9)[None])  # all that has to be imported
before = peak()
model = offload.load(sys.argv[1], int(sys.argv[2]))
for i in range(4):
    model(torch.arange(24)[None] + i)
model.generate(torch.arange(3)[None], 10)
store = offload.of(model)
assert store.bytes_read > 2 * store.slots * store.slot_bytes
print(peak() - before)
"""


class TestFiles:
    def test_deleted_can_be_read(self, folder: Path) -> None:
        resident = from_pretrained(folder).requires_grad_(False)
        model, store = loaded(folder, E)
        (folder / "model.safetensors").unlink()
        with store:
            assert torch.equal(resident(prompts(2, 9)), model(prompts(2, 9)))

    def test_replaced_stays_what_it_was(self, folder: Path) -> None:
        resident = from_pretrained(folder).requires_grad_(False)
        model, store = loaded(folder, E)
        path = folder / "model.safetensors"
        save_file({n: torch.zeros_like(x) for n, x in load_file(path).items()}, folder / "new")
        os.replace(folder / "new", path)
        with store:
            assert torch.equal(resident(prompts(2, 9)), model(prompts(2, 9)))

    def test_changed_in_place(self, folder: Path) -> None:
        model, store = loaded(folder, E)
        path = folder / "model.safetensors"
        with open(path, "r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"1234")
        os.utime(path, (1, 1))
        with store, pytest.raises(ValueError, match=r"model\.safetensors must not change while"):
            model(prompts(2, 9))

    def test_shorter(self, folder: Path) -> None:
        model, store = loaded(folder, E)
        os.truncate(folder / "model.safetensors", 5000)
        with store:
            for _ in range(2):
                with pytest.raises(ValueError, match=r"model\.safetensors must not change while"):
                    model(prompts(2, 9))

    def test_read_error(self, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        resident = from_pretrained(shared).requires_grad_(False)
        model, store = loaded(shared, E)
        ids, read, calls = prompts(2, 9), os.preadv, itertools.count()

        def sometimes(*args: Any) -> int:
            if next(calls) % 7 == 3:
                raise OSError(5, "Input/output error")
            return read(*args)

        with store:
            monkeypatch.setattr(_reading.os, "preadv", sometimes)
            for _ in range(5):
                with pytest.raises(OSError, match=r"\.safetensors cannot be read: .*Input/output"):
                    model(ids)
            monkeypatch.setattr(_reading.os, "preadv", read)
            assert torch.equal(resident(ids), model(ids))

    def test_short_reads(self, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        resident, read = from_pretrained(shared).requires_grad_(False), os.preadv

        def bits(fd: int, into: list[memoryview], offset: int) -> int:
            return read(fd, [into[0][:999]], offset)

        monkeypatch.setattr(_reading.os, "preadv", bits)
        model, store = loaded(shared, E)
        with store:
            assert torch.equal(resident(prompts(2, 9)), model(prompts(2, 9)))

    def test_large_weights_are_converted_in_pieces(
        self, shared: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_reading, "PIECE", 100)
        files = _reading.Files([next(iter(sorted(shared.glob("*.safetensors"))))])
        place = next(p for p in files.places.values() if len(p.shape) == 2)
        out = torch.empty(place.shape, dtype=torch.float64)
        place.copy_to(out)
        assert torch.equal(out, place.new().double())
        with pytest.raises(ValueError, match="must be"):
            place.copy_to(torch.empty(3))
        files.close()

    @pytest.mark.parametrize("cut", [4, 200, -9])
    def test_truncated_before(self, folder: Path, cut: int) -> None:
        path = folder / "model.safetensors"
        os.truncate(path, cut if cut > 0 else path.stat().st_size + cut)
        with pytest.raises(ValueError, match="truncated or corrupted"):
            offload.load(folder)

    def test_missing(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors"):
            offload.load(folder)


class TestEnd:
    def test_close(self, shared: Path) -> None:
        model, store = loaded(shared, E)
        assert threads()
        store.close()
        store.close()
        assert not threads()
        with pytest.raises(ValueError, match="closed: load the folder again"):
            model(prompts(1, 2))

    def test_garbage(self, shared: Path) -> None:
        model, store = loaded(shared, E)
        gone = weakref.ref(store)
        del model, store
        gc.collect()
        assert gone() is None
        assert not threads()
        assert not open_files()

    def test_a_failed_load_leaves_no_thread(self, folder: Path, monkeypatch: Any) -> None:
        def fail(*args: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(_loading._Parts, "fill", fail)
        with pytest.raises(MemoryError):
            offload.load(folder)
        assert not threads()

    def test_interrupt(self, shared: Path, request: pytest.FixtureRequest) -> None:
        resident = from_pretrained(shared).requires_grad_(False)
        model, store = loaded(shared, E + 3)
        ids, fill = prompts(2, 9), store.pool.source.fill
        slow = threading.Event()

        def waits(key: Any, slot: int) -> int:
            slow.wait(0.05)
            return fill(key, slot)

        store.pool.source.fill = waits  # type: ignore[method-assign]
        main = threading.get_ident()

        def run() -> None:
            model(ids)
            time.sleep(5)  # where the model was faster than the signal

        # a shell's background job, as tests may be, ignores the signal
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
        gc.disable()  # in a callback of the collector, as Hypothesis has one, an interrupt is lost
        request.addfinalizer(gc.enable)
        with store:
            for delay in (0.01, 0.06, 0.13):
                timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
                timer.start()
                with pytest.raises(KeyboardInterrupt):
                    run()
                timer.join()
                assert not store.pool._held
                assert not store.pool._asked
            slow.set()
            assert torch.equal(resident(ids), model(ids))
            pool = store.pool
            assert sorted([*pool._slot_of.values(), *pool._free]) == list(range(store.slots))

    @pytest.mark.parametrize(
        ("file", "step"), [(_pool.__file__, 3), (threading.__file__, 1)], ids=["pool", "threading"]
    )
    def test_interrupts_anywhere(self, shared: Path, file: str, step: int) -> None:
        """At lines of the pool or under it, in a budget that has not one slot to lose."""
        resident = from_pretrained(shared).requires_grad_(False)
        model, store = loaded(shared, E)
        x = torch.randn(9, 64)
        both = [layer.moge for layer in model.layers[:2]]  # each takes the slots of the other
        want, left = [layer.moge(x) for layer in resident.layers[:2]], 0
        fill = store.pool.source.fill

        def slowly(key: Any, slot: int) -> int:
            time.sleep(0.002)  # so that the layer has to wait
            return fill(key, slot)

        store.pool.source.fill = slowly  # type: ignore[method-assign]

        def line(frame: Any, event: str, arg: object) -> Any:
            nonlocal left
            # the end of a block comes as its first line, where no signal is handled
            if event == "line" and "with " not in linecache.getline(file, frame.f_lineno):
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return line

        def hang(*args: object) -> None:
            raise TimeoutError

        def call(frame: Any, event: str, arg: object) -> Any:
            return line if frame.f_code.co_filename == file else None

        before = signal.signal(signal.SIGALRM, hang)
        interrupted = 0
        try:
            with store:
                for n in range(1, 80 * step, step):
                    left = n
                    signal.alarm(20)
                    sys.settrace(call)
                    try:
                        both[n % 2](x)
                        both[1 - n % 2](x)
                    except KeyboardInterrupt:
                        interrupted += 1
                    finally:
                        sys.settrace(None)
                    for layer, y in zip(both, want, strict=True):
                        assert torch.equal(layer(x), y)
                    signal.alarm(0)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        assert interrupted > 40

    @pytest.mark.parametrize("room", ["some", "all"])
    @pytest.mark.parametrize("option", ["-B", "-O"])
    def test_python_ends_without_close(self, shared: Path, room: str, option: str) -> None:
        """Also where it drops assertions."""
        rest, each = sizes(shared)
        most = rest + E * each if room == "some" else None
        code = (
            "import sys, torch\nfrom moge_ops import offload\n"
            f"m = offload.load(sys.argv[1], {most})\n"
            "m(torch.arange(9)[None])\nprint('done')"
        )
        done = subprocess.run(
            [sys.executable, option, "-c", code, str(shared)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)

    def test_a_fork_is_told(self, shared: Path) -> None:
        code = """if True:
            import os, sys, torch
            from moge_ops import offload
            torch.set_num_threads(1)  # OpenMP's do not live in a fork either
            model = offload.load(sys.argv[1], int(sys.argv[2]))
            model(torch.arange(9)[None])
            if os.fork() == 0:
                try:
                    model(torch.arange(9, 18)[None])
                except ValueError as error:
                    print(error, flush=True)
                sys.exit()  # with what runs at the end
            print("done" if os.wait()[1] == 0 else "failed")
        """
        rest, each = sizes(shared)
        done = subprocess.run(
            [sys.executable, "-c", code, str(shared), str(rest + E * each)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "must run in the process that loaded it" in done.stdout
        assert done.stdout.endswith("\ndone\n")

    @pytest.mark.parametrize("act", [
        copy.deepcopy,
        pickle.dumps,
        lambda model: torch.save(model, io.BytesIO()),
    ])  # fmt: skip
    def test_no_copies(self, shared: Path, act: Any) -> None:
        model, store = loaded(shared, E)
        with store, pytest.raises(TypeError, match="cannot be copied or pickled: load the folder"):
            act(model)

    def test_no_state_dict_and_no_move(self, shared: Path) -> None:
        model, store = loaded(shared, E)
        with store:
            with pytest.raises(ValueError, match="has no state dict"):
                model.state_dict()
            for act in (lambda: model.to("meta"), model.half):
                with pytest.raises(ValueError, match="must stay on its device and in its dtype"):
                    act()

    def test_no_gradient(self, shared: Path) -> None:
        model, store = loaded(shared, E)
        layer = model.layers[0].moge
        with store:
            with pytest.raises(ValueError, match="must need no gradient"):
                layer(torch.ones(2, 64, requires_grad=True))
            with torch.no_grad():
                layer(torch.ones(2, 64, requires_grad=True))

    @pytest.mark.parametrize("seed", range(3))
    def test_stress(self, shared: Path, seed: int) -> None:
        """Several threads, random budgets, and reads that take their time or fail."""
        resident = from_pretrained(shared).requires_grad_(False)
        chance = random.Random(seed)
        model, store = loaded(shared, chance.randint(E, 3 * E))
        fill, failed = store.pool.source.fill, [0]

        def uneven(key: Any, slot: int) -> int:
            time.sleep(chance.random() * 0.002)
            if chance.random() < 0.01:
                failed[0] += 1
                raise OSError("odd")
            return fill(key, slot)

        store.pool.source.fill = uneven  # type: ignore[method-assign]
        wrong: list[object] = []

        def work(seed: int) -> None:
            own = random.Random(seed)
            for i in range(12):
                ids = prompts(own.randint(1, 3), own.choice([1, 2, 11]), seed=100 * seed + i)
                try:
                    if not torch.equal(resident(ids), model(ids)):
                        wrong.append((seed, i))
                except OSError as error:
                    if str(error) != "odd":
                        wrong.append(error)

        with store:
            workers = [threading.Thread(target=work, args=(seed * 9 + i,)) for i in range(3)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(60)
                assert not worker.is_alive()
        assert not wrong
        pool = store.pool
        assert sorted([*pool._slot_of.values(), *pool._free]) == list(range(store.slots))


class TestMasks:
    def masks(self, keep: int = 2) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(3)
        found = {}
        for i in range(LAYERS):
            best = torch.rand(2, E // 2, generator=chance).argsort(1)[:, :keep]
            mask = torch.zeros(2, E // 2, dtype=torch.bool).scatter_(1, best, True)
            found[f"layers.{i}.moge"] = mask.flatten()
        return found

    @pytest.mark.parametrize("name", ["cpu", "torch"])
    @pytest.mark.parametrize("slots", [None, 6, 8])
    def test_only_those_are_read(
        self, shared: Path, slots: int | None, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        masks = self.masks(3)
        resident = from_pretrained(shared).requires_grad_(False)
        for layer, mask in masks.items():
            resident.get_submodule(layer).expert_mask = mask
        rest, each = sizes(shared)
        model = offload.load(shared, slots and rest + slots * each, experts=masks)
        store = offload.of(model)
        assert store.slots == (slots or 6 * LAYERS)
        of = store.pool.source.of  # type: ignore[attr-defined]
        kept = [masks[f"layers.{i}.moge"].nonzero().flatten().tolist() for i in range(LAYERS)]
        assert set(of) == {(i, e) for i, ids in enumerate(kept) for e in ids}
        with store, backend(name):
            for ids in (prompts(2, 9), prompts(1, 1)):
                assert torch.equal(resident(ids), model(ids))
            want = resident.generate(prompts(2, 9), 8, temperature=0)
            assert torch.equal(want, model.generate(prompts(2, 9), 8, temperature=0))
            x = torch.full((2, 64), torch.nan)
            assert model.layers[0].moge(x).isnan().all()
            if slots is None:
                assert store.bytes_read == 6 * LAYERS * store.slot_bytes

    def test_routing_to_one_that_is_off(self, shared: Path) -> None:
        masks = self.masks()
        model = offload.load(shared, experts=masks)
        off = int((~masks["layers.0.moge"]).nonzero()[0])
        with pytest.raises(ValueError, match=f"got {off} in layers.0.moge, which was switched off"):
            model(prompts(1, 1), routing=torch.full((1, 1, LAYERS, K), off))

    def test_a_few_layers(self, shared: Path) -> None:
        masks = {"layers.1.moge": self.masks()["layers.1.moge"]}
        store = offload.of(offload.load(shared, experts=masks))
        assert store.slots == 3 * E + 4

    def test_wrong(self, shared: Path) -> None:
        mask = torch.ones(E, dtype=torch.bool)
        for masks, error, match in (
            (
                {"layers.9.moge": mask},
                ValueError,
                r"experts must name layers, .* got layers\.9\.moge",
            ),
            ({"layers.0.moge": mask[1:]}, ValueError, r"must be \[E\]"),
            ({"layers.0.moge": mask.int()}, TypeError, "must be bool, got torch.int32"),
            ({"layers.0.moge": ~mask}, ValueError, "must keep at least k=2 .* got 0"),
        ):
            with pytest.raises(error, match=match):
                offload.load(shared, experts=masks)


class TestModel:
    def test_dtype(self, shared: Path) -> None:
        with pytest.raises(ValueError, match=r"torch\.float32.*moge-ops convert --dtype"):
            offload.load(shared, dtype=torch.bfloat16)
        offload.load(shared, dtype=torch.float32)

    def test_dtype_beside_quantised_experts(self, tmp_path: Path) -> None:
        make(tmp_path / "x", "int8_w8a8")
        model = offload.load(tmp_path / "x", 400_000, dtype=torch.float32)
        store = offload.of(model)
        assert E <= store.slots < LAYERS * E
        resident = from_pretrained(tmp_path / "x", dtype=torch.float32).requires_grad_(False)
        with store:
            assert torch.equal(resident(prompts(2, 9)), model(prompts(2, 9)))

    def test_not_on_the_meta_device(self, shared: Path) -> None:
        with pytest.raises(ValueError, match="model must be on the meta device, got one with"):
            offload.load(shared, model=PanguMoEForCausalLM(PanguMoEConfig(**SIZES)))
        with pytest.raises(ValueError, match="model must hold MoGE layers, got Linear"):
            offload.load(shared, model=torch.nn.Linear(2, 2))

    @pytest.mark.parametrize(
        "changes",
        [{"num_hidden_layers": 3}, {"num_hidden_layers": 5}, {"hidden_size": 128},
         {"num_experts": 16}, {"moe_intermediate_size": 64}],
        ids=lambda changes: next(iter(changes)) + str(next(iter(changes.values()))),
    )  # fmt: skip
    def test_of_other_sizes(self, shared: Path, changes: dict[str, int]) -> None:
        with torch.device("meta"):
            model = PanguMoEForCausalLM(PanguMoEConfig(**{**SIZES, **changes}))
        with pytest.raises(ValueError, match=r"must be|lacks"):
            offload.load(shared, model=model)

    def test_of(self, shared: Path) -> None:
        with pytest.raises(ValueError, match=r"must be one that moge_ops\.offload\.load gave, got"):
            offload.of(from_pretrained(shared))
