"""Plans against brute force on small spaces, and every count and rate against a case by hand."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from moge_ops import planner
from moge_ops.distributed import Plan, parallelize
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.layout import parameter_counts
from moge_ops.planner import Chip, Layout, Precision
from moge_ops.planner._cost import dense_seconds, ring_seconds
from moge_ops.planner._layout import layouts, stages
from moge_ops.planner._memory import Work, inference_memory, stage_memory, stage_parameters
from moge_ops.planner._time import Setting, inference_times

PANGU = PanguMoEConfig()
TINY = PanguMoEConfig(
    vocab_size=40,
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts=4,
    num_experts_per_tok=4,  # every token takes all, so that sampling changes nothing
    num_groups=2,
    moe_intermediate_size=4,
    shared_expert_intermediate_size=8,
    bos_token_id=None,
    eos_token_id=None,
)
FAST_MEMORY = Chip("products alone", 1e9, 1e30, 1e6, 1e5, node=2, memory=1e5)
FAST_PRODUCTS = Chip("weights alone", 1e30, 1e6, 1e6, 1e5, node=4, memory=1e5)
PAPER = Layout(ep=4, tp=2, heads=4)
W8A8 = Precision(matrix=1)
PANGU_CHIP = planner.CHIPS["910b2"]


def test_a_whole_model_has_the_known_parameters() -> None:
    for config in (PANGU, TINY):
        count, size = stage_parameters(config, Layout(), Precision(), 0)
        assert count == parameter_counts(config)[0]
        assert size == 2 * count


def test_the_paper_s_layout_has_the_parameters_of_parallelize() -> None:
    """Of the 72B model, on meta."""
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=8)
    try:
        mesh = init_device_mesh("cpu", (2, 4), mesh_dim_names=("a", "b"))
        with torch.device("meta"):
            model = PanguMoEForCausalLM(dataclasses.replace(PANGU, num_hidden_layers=2))
        model = parallelize(model, mesh, Plan(groups="b", width="a", heads="b"))
        want = sum(p.to_local().numel() for p in model.parameters())
    finally:
        dist.destroy_process_group()
    config = dataclasses.replace(PANGU, num_hidden_layers=2)
    assert stage_parameters(config, PAPER, Precision(), 0)[0] == want


def test_parameters_by_hand() -> None:
    """TINY on two stages of the mesh ep 2, tp 2, attention over 2."""
    layout = Layout(ep=2, tp=2, heads=2, pp=2)
    norms, gate = 2 * 8, 4 * 8 + 4
    attention = (4 + 2 + 2) * 9 + 8 * 4 + 8  # rows of q, k, v with biases; o and its bias
    experts = 2 * 3 * 8 * 2  # two experts, of width 2
    shared = 3 * 8 * 2
    layer = norms + gate + attention + experts + shared
    assert stages(TINY, 2) == [1, 2]
    assert stage_parameters(TINY, layout, Precision(), 0)[0] == layer + 40 * 8
    assert stage_parameters(TINY, layout, Precision(), 1)[0] == 2 * layer + 8 + 40 * 8
    # int8: the matrices take a byte, and a float32 for each row
    matrices = 8 * 8 + 8 * 4 + experts + shared
    rows = (4 + 2 + 2) + 8 + 2 * (2 * 2 + 8) + (2 * 2 + 8)
    size = 2 * (layer + 320 - matrices) + matrices + 4 * rows
    assert stage_parameters(TINY, layout, W8A8, 0)[1] == size


def test_the_cache_and_states_by_hand() -> None:
    memory = inference_memory(TINY, Layout(heads=2, ep=2), Precision(), Work(6, 1, 10))
    assert memory.cache == 2 * 3 * 1 * 2 * 2 * 6 * 10  # k and v, layers, head, width, bytes, rows
    whole = parameter_counts(TINY)[0]
    parts: list[tuple[int, Any]] = [(0, (2, 2, 12)), (1, (2, 2, 6)), (2, (2, 1, 6)), (3, (1, 1, 6))]
    for shard, times in parts:
        layout = Layout(dp=2, shard=shard)
        found = stage_memory(TINY, layout, Precision(), Work(1, 4, 4), 1, 0)
        assert found[:3] == tuple(n * whole for n in times), shard


def test_a_stage_keeps_the_micro_batches_that_are_under_way() -> None:
    work = Work(1, 4, 4)
    kept = [
        stage_memory(TINY, Layout(pp=3), Precision(), work, m, stage).activations
        for m, stage in ((9, 1), (1, 1), (9, 2), (1, 2))
    ]
    assert kept[0] == 2 * kept[1]
    assert kept[2] == kept[3]


def test_the_buffers_of_the_copies_by_hand() -> None:
    """Embedding, last norm and head are whole in a step; so are layers one after another."""
    layer = 16 + 36 + (8 + 4 + 4) * 9 + 8 * 8 + 8 + 4 * 3 * 8 * 4 + 3 * 8 * 8
    outer = 320 + 8 + 320
    assert 3 * layer + outer == parameter_counts(TINY)[0]
    buffers = [
        stage_memory(TINY, Layout(dp=2, shard=n), Precision(), Work(1, 4, 4), 1, 0).buffers
        for n in range(4)
    ]
    gradients, gathered = 2 * (layer + outer), 2 * (2 * layer + outer)
    more = [0, 0, gradients, gradients + gathered]
    assert [size - buffers[0] for size in buffers] == more


def test_only_the_last_stage_has_logits() -> None:
    wide = dataclasses.replace(TINY, vocab_size=10**6)
    found = [
        stage_memory(wide, Layout(pp=3), Precision(), Work(1, 4, 4), 1, stage).buffers
        for stage in range(3)
    ]
    assert found[0] == found[1] < 10**6
    assert found[2] == 4 * 10**6 * 12


def test_rings_and_products_by_hand() -> None:
    chip = Chip("chip", 10.0, 5.0, 100.0, 10.0, node=4)
    assert ring_seconds(1, 1, 80, chip) == 0
    assert ring_seconds(4, 1, 80, chip) == pytest.approx(0.75 * 80 / 100)
    # two of a node have half of the bytes each, and three other nodes have the same place
    assert ring_seconds(8, 2, 80, chip) == pytest.approx(0.5 * 80 / 100 + 0.75 * 40 / 10)
    assert ring_seconds(2, 4, 80, chip) == pytest.approx(0.5 * 80 / 10)
    assert dense_seconds(3, 20, chip) == 12  # 120 FLOPs; 40 bytes take 8
    assert dense_seconds(1, 20, chip) == 8
    assert dense_seconds(3, 20, chip, 1, 2.0) == 6
    assert dense_seconds(0, 20, chip) == 0


# -- brute force, written on its own ---------------------------------------------------------------


def every(devices: int, *, train: bool) -> Iterator[Layout]:
    """All tuples of numbers up to the devices, most of which are thrown away."""
    n = range(1, devices + 1)
    recompute = ("none", "selective", "full") if train else ("none",)
    for ep, tp, hp, dp, pp in itertools.product(n, repeat=5):
        if ep * tp * dp * pp != devices or hp not in (1, ep, tp) or (pp > 1 and not train):
            continue
        if 2 % ep or 4 % tp or 2 % hp or 8 % (ep * tp) or pp > 3:
            continue
        for again, shard in itertools.product(recompute, range(4 if train and dp > 1 else 1)):
            yield Layout(ep, tp, hp, dp, pp, 1, again, shard)


def gather(n: int, tokens: int, chip: Chip) -> float:
    """Bytes of all others' tokens, in and out; the network carries a share of other nodes' ones."""
    near = (n - 1) * tokens * 16 / chip.node_link
    far = max(0, n - chip.node) / chip.node * tokens * 16 / chip.net_link
    return 2 * max(near, far)


def layer_seconds(x: Layout, rows: int, new: int, context: int, chip: Chip) -> tuple[float, ...]:
    """Attention, experts, links of attention and of experts, forward."""
    T = rows * new
    own = -(-T // x.heads)
    everyone = own * x.ep * x.tp
    A, C = 4 // x.heads, 2 // x.heads

    def product(tokens: int, weights: float) -> float:
        return max(2 * tokens * weights / chip.flops, 2 * weights / chip.bytes)

    pairs = sum(context - new + i + 1 for i in range(new)) * rows
    read = rows * (context - new) * 2 * C * 2 * 2 / chip.bytes
    attention = product(T, 8 * (A + 2 * C) * 2) + product(T, A * 2 * 8)
    attention += max(4 * pairs * A * 2 / chip.flops, read)
    n = x.ep * x.tp
    experts = (4 // x.ep) * product(everyone, 3 * 8 * 4 / x.tp)  # each expert has every token
    experts += (
        product(everyone, 4 * 8) + product(everyone, 16 * 8 / n) + product(everyone, 8 * 8 / n)
    )
    return attention, experts, gather(x.heads, own, chip), gather(n, own, chip)


def serve_seconds(x: Layout, rows: int, new: int, context: int, chip: Chip) -> float:
    head = max(2 * rows * 320 / chip.flops, 640 / chip.bytes)
    return 3 * sum(layer_seconds(x, rows, new, context, chip)) + head


@pytest.mark.parametrize("chip", [FAST_MEMORY, FAST_PRODUCTS], ids=lambda chip: chip.name)
@pytest.mark.parametrize(("kind", "new"), [("decode", 1), ("prefill", 6)])
@pytest.mark.parametrize("devices", [1, 2, 4, 6])
def test_serving_plans_are_those_of_brute_force(
    chip: Chip, kind: str, new: int, devices: int
) -> None:
    found = planner.plan(TINY, devices, chip, kind=kind, length=6, batch=3)
    want = {}
    for x in every(devices, train=False):
        rows = 3 * x.heads
        rate = 3 * new / serve_seconds(x, rows, new, 6, chip)
        want[dataclasses.replace(x, micro=rows)] = rate
    assert {f.layout: f.rate for f in found.best} == pytest.approx(want)
    rates = [f.rate for f in found.best]
    assert rates == pytest.approx(sorted(want.values(), reverse=True))


def train_seconds(x: Layout, m: int, chip: Chip) -> float:
    """A step of m micro-batches of a sequence of four tokens, of the slowest stage."""
    attention, experts, heads, links = layer_seconds(x, x.micro, 4, 4, chip)
    once, n, hp = x.micro * 4, x.ep * x.tp, x.heads
    again = ("none", "selective", "full").index(x.recompute)
    each = 3 * attention + 3 * experts + 2 * heads + 2 * links
    each += experts + links if again else 0
    each += attention + heads if again == 2 else 0
    worst = 0.0
    for stage in range(x.pp):
        first, last = stage == 0, stage == x.pp - 1
        layers = 3 // x.pp + (1 <= stage <= 3 % x.pp)
        pace = layers * each
        if last:
            pace += 3 * max(2 * once * 320 / chip.flops, 640 / chip.bytes)
        if x.pp > 1:
            link = chip.node_link if 2 * n <= chip.node else chip.net_link
            pace += 2 * -(-once // hp) * 16 / link
        everywhere = layers * (16 + 36 + 8) + 320 * first  # norms, router, o's bias
        of_heads = layers * ((4 + 4) * 2 * 9 + 8 * 8) // hp + (8 + 320) * last
        sums = 2 * ring(n, 1, 2 * everywhere, chip) + 2 * ring(n // hp, hp, 2 * of_heads, chip)
        experts_of = layers * (4 // x.ep * 3 * 8 * 4 // x.tp + 3 * 8 * 8 // n)
        count = everywhere + of_heads + experts_of
        copies = ring(x.dp, n * x.pp, 2 * count, chip)
        times = {0: 2, 1: 2, 2: m + 1, 3: 3 * m}[x.shard]
        own = stage_parameters(TINY, x, Precision(), stage, x.dp if x.shard else 1)[0]
        update = own * (24 + 2 + 2) / chip.bytes
        total = (m + x.pp - 1) * (pace + sums) + times * copies + update
        worst = max(worst, total)
    return worst


def ring(ranks: int, stride: int, size: float, chip: Chip) -> float:
    """A walk: steps inside the node, then steps over the network with what is left."""
    inside = 1
    while inside < ranks and (inside + 1) * stride <= chip.node:
        inside += 1
    near = sum(size / inside / chip.node_link for _ in range(inside - 1))
    outside = ranks / inside
    return near + (outside - 1) * size / inside / outside / chip.net_link


@pytest.mark.parametrize("chip", [FAST_MEMORY, FAST_PRODUCTS], ids=lambda chip: chip.name)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_training_plans_are_those_of_brute_force(chip: Chip, devices: int) -> None:
    chip = chip._replace(memory=1e12)
    found = planner.plan(TINY, devices, chip, kind="train", length=4, batch=2)
    want = {}
    for x in every(devices, train=True):
        rows = 2 * x.heads * x.pp
        for micro in (m for m in range(1, rows + 1) if rows % m == 0 and m & (m - 1) == 0):
            made = dataclasses.replace(x, micro=micro)
            want[made] = 8 / train_seconds(made, rows // micro, chip)
    assert {f.layout: f.rate for f in found.best} == pytest.approx(want)


# -- why others fall out, and bad input ------------------------------------------------------------


def test_reasons_count_every_plan() -> None:
    found = planner.plan(PANGU, 32, latency=0.025, batch=64, precision=W8A8)
    counts = [int(sentence.split()[0]) for sentence in found.dropped]
    n = range(1, 33)
    # ranks of experts, and what attention has of them
    whole = sum(len({1, ep, tp}) for ep in n for tp in n if 32 % (ep * tp) == 0)
    assert sum(counts) + len(found.best) == whole
    text = "; ".join(found.dropped)
    for reason in (
        "8 groups do not split over 16, 32 ranks",
        "8 key heads do not split over 16, 32 ranks",
        "5 plans need more than 64 GB: the least of them 64.3 GB",
        "take more than 25 ms: the quickest of them",
    ):
        assert reason in text, text


def test_reasons_in_other_numbers() -> None:
    """One plan, a size just above the limit, and more numbers of ranks than one reads."""
    (only,) = planner.plan(PANGU, 1, batch=1).dropped
    assert only == "1 plan needs more than 64 GB: 144.4 GB"
    (only,) = planner.plan(PANGU, 1, batch=7, memory=146.8e9).dropped
    assert only == "1 plan needs more than 146.8 GB: 146.803 GB"
    (only,) = planner.plan(PANGU, 1, batch=1, memory=1e12, latency=0.001).dropped
    assert re.fullmatch(r"1 plan takes more than 1 ms: \d+\.\d ms", only), only
    _, many, *_ = planner.plan(PANGU, 240, batch=1).dropped
    assert many.endswith("8 groups do not split over 3, 5, 6, 10, 12, 15, ..., 240 ranks")


def test_memory_drops_what_does_not_fit() -> None:
    found = planner.plan(PANGU, 2, batch=1)
    assert found.best == []
    (sentence,) = found.dropped
    least = min(
        inference_memory(PANGU, x, Precision(), Work(x.heads, 1, 2048)).total
        for x in layouts(2, training=False)
    )
    assert sentence == f"5 plans need more than 64 GB: the least of them {least / 1e9:.1f} GB"


def test_the_largest_batch_is_taken() -> None:
    for best in planner.plan(PANGU, 8, latency=0.04, precision=W8A8).best:
        assert best.memory.total <= 64e9
        assert best.times.total <= 0.04
        rows = (best.batch + 1) * best.layout.heads
        work = Work(rows, 1, 2048)
        too_large = inference_memory(PANGU, best.layout, W8A8, work).total > 64e9
        s = Setting(PANGU, planner.CHIPS["910b2"], W8A8)
        assert too_large or inference_times(s, best.layout, work).total > 0.04


def test_nodes_that_the_ranks_do_not_fill() -> None:
    """Eight ranks on nodes of six: the links take longer than on one node."""
    twin, wide, seconds = planner.top_k_twin(PANGU), Layout(ep=8, micro=8), []
    for node in (8, 6):
        best = planner.plan(twin, 8, PANGU_CHIP._replace(node=node), batch=8).best
        seconds += [found.times.links for found in best if found.layout == wide]
    assert seconds[0] < seconds[1], seconds


def test_plain_top_k_keeps_experts_whole() -> None:
    twin = planner.top_k_twin(PANGU)
    found = planner.plan(twin, 64, batch=4, precision=W8A8)
    assert {x.layout.tp for x in found.best} == {1}
    assert max(x.layout.ep for x in found.best) == 64
    reason = "an expert of plain top-k does not split over 2, 4, 8, 16, 32, 64 ranks"
    assert any(sentence.endswith(reason) for sentence in found.dropped)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"devices": 0}, ValueError, r"devices must be in \[1, 65536\], got 0"),
        ({"devices": 2.0}, TypeError, "devices must be an int, got float"),
        ({"chip": "abacus"}, ValueError, "chip must be one of h100, 910b2, 310p, got 'abacus'"),
        ({"kind": "guess"}, ValueError, "kind must be one of train, prefill, decode, got 'guess'"),
        ({"length": 200000}, ValueError, r"length must be in \[1, 131072\], got 200000"),
        ({"batch": 0}, ValueError, r"batch must be in \[1, 65536\], got 0"),
        ({"memory": -1.0}, ValueError, "memory must be above 0, got -1.0"),
        ({"latency": float("nan")}, ValueError, "latency must be above 0, got nan"),
        ({"chip": PANGU_CHIP._replace(node=0)}, ValueError, "chip.node must be at least 1, got 0"),
        ({"chip": PANGU_CHIP._replace(flops=0)}, ValueError, "chip.flops must be above 0, got 0"),
        (
            {"kind": "train", "precision": W8A8},
            ValueError,
            "precision.matrix must be item=2 to train, got 1",
        ),
        (
            {"precision": Precision(2, 7)},
            ValueError,
            "precision.matrix must be 1, 2, 4 or 8 bytes, got 7",
        ),
        ({"precision": Precision(0, 0)}, ValueError, "precision.item must be 1, 2, 4 or 8 bytes"),
        ({"precision": Precision(2, 4)}, ValueError, "matrix must be at most item=2, got 4"),
        ({"precision": Precision(2.0)}, TypeError, "precision.item must be an int, got float"),
        ({"precision": 1}, TypeError, "precision must be a Precision, got int"),
        ({"config": 3}, TypeError, "config must be a PanguMoEConfig, got int"),
        ({"chip": 3}, TypeError, "chip must be a Chip or one of h100, 910b2, 310p, got int"),
        (
            {"chip": PANGU_CHIP._replace(net_link="25GB")},
            TypeError,
            "chip.net_link must be a number, got str",
        ),
        ({"chip": PANGU_CHIP._replace(node=2.5)}, TypeError, "chip.node must be an int, got float"),
        ({"memory": "64GB"}, TypeError, "memory must be a number, got str"),
        ({"latency": True}, TypeError, "latency must be a number, got bool"),
        ({"length": 2048.0}, TypeError, "length must be an int, got float"),
        ({"batch": "2"}, TypeError, "batch must be an int, got str"),
        ({"kind": None}, ValueError, "kind must be one of train, prefill, decode, got None"),
    ],
)
def test_rejects_inputs(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        planner.plan(**{"config": PANGU, "devices": 8, **options})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: planner.top_k_twin(3), TypeError, "config must be a PanguMoEConfig, got int"),
        (lambda: planner.device_loads([1, 2], 2), TypeError, r"rows must be a Tensor \[..., E\]"),
        (
            lambda: planner.device_loads(torch.tensor(3), 1),
            ValueError,
            r"rows must be \[..., E\], got \[\]",
        ),
        (
            lambda: planner.device_loads(torch.ones(3), 2),
            ValueError,
            "devices must divide E=3, got 2",
        ),
        (lambda: planner.device_loads(torch.ones(4), 2.0), TypeError, "devices must be an int"),
        (lambda: exchange(3, ranks=2), ValueError, "ranks must divide T=3, got 2"),
        (lambda: exchange(3, ranks=3), ValueError, "ranks must divide E=4, got 3"),
        (
            lambda: exchange(0, ranks=2),
            ValueError,
            r"experts must be \[T, K\] with T at least 1, got \[0, 2\]",
        ),
        (lambda: exchange(2, ranks=0), ValueError, "ranks must be at least 1, got 0"),
    ],
)
def test_rejects_inputs_of_the_model(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def exchange(T: int, ranks: int) -> float:
    experts = torch.zeros(T, 2, dtype=torch.int32)
    return planner.all_to_all_seconds(experts, ranks, 4, 100, PANGU_CHIP)


def test_layouts_are_named_as_the_paper_does() -> None:
    assert (PAPER.attention, PAPER.experts) == ("DP2·TP4", "TP2·EP4")
    assert str(Layout(4, 2, 4, 2, 3, 1, "full", 2)) == (
        "attention DP4·TP4, experts DP2·TP2·EP4, PP3, recompute full, ZeRO-2"
    )
    assert (Layout().attention, Layout().experts, Layout(2, 3, 2, 5, 7).devices) == ("1", "1", 210)
