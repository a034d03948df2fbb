"""Token rounding: the rows that tiles waste, what they cost, and what a model loses by rounding.

Three studies, in one CSV. Counted: how many rows whole tiles compute for the rows that tokens
chose, at the sizes of Pangu Pro MoE, Intern-S1-Pro and the sparse series of SonicMoE. Timed: a
small layer forward and backward on this CPU, with and without rounding. Trained: one small model
from the same weights on the same batches, plain and rounded; the held-out loss is always without
rounding, as in the paper.

Source: Guo et al. 2025, "SonicMoE", token rounding (arXiv:2512.14080).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from operator import itemgetter

import torch
from bench_ops import harness, printing
from torch import Tensor
from train_demo import MODEL, SMOKE, Row, Text, byte_tokenizer, fitted, held_out_loss, updater

import moge_ops
from moge_ops.models import PanguMoEForCausalLM
from moge_ops.models.pangu_moe import losses
from moge_ops.testing import PANGU, Sizes, router_logits

SONIC = Sizes(1, H=1536, E=128, G=1, k=8, F=256)  # its 7B model
SHAPES = {
    "Pangu Pro MoE": PANGU,
    "Intern-S1-Pro": Sizes(1, H=4096, E=512, G=8, k=1, F=1536),
    **{f"SonicMoE, K/E = 1/{E // 8}": SONIC._replace(E=E) for E in (128, 256, 512)},
}
TOKENS, TILES = (2048, 8192), (64, 128)
ROUTERS = {"even": 0.0, "skewed": 0.5}  # exponent of the experts' popularity
PLAIN = "plain"
COUNTED = (PLAIN, "nearest", "apportioned")
TIMED = (PLAIN, "nearest", "down")
TRAINED = (PLAIN, "nearest", "down", "apportioned")
COLUMNS = [
    *("date", "machine", "threads", "torch", "revision", "study", "shape", "router", "mode"),
    *("T", "H", "E", "G", "K", "F", "tile", "chosen", "dropped", "added", "computed"),
    *("path", "median_ms", "q20_ms", "q80_ms", "rounds", "parameters", "step", "held_out_loss"),
]
OPTIONS = {
    "steps": (80, 1, "updates of each model"),
    "batch": (4, 1, "pieces of text in a batch"),
    "length": (256, 2, "bytes of a piece"),
    "seed": (0, 0, "of the weights and the batches"),
}


def sizes_of(s: Sizes) -> Row:
    return {"T": s.T, "H": s.H, "E": s.E, "G": s.G, "K": s.K, "F": s.F}


def rounded(logits: Tensor, s: Sizes, mode: str, tile: int) -> moge_ops.Gating:
    """The gate's choice, rounded unless it is to stay plain."""
    gating = moge_ops.grouped_gate(logits, s.G, s.k)
    if mode == PLAIN:
        return gating
    return moge_ops.round_tokens(logits, gating.experts, tile, num_groups=s.G, mode=mode)


def counted(smoke: bool) -> Iterator[Row]:
    """Rows chosen, changed and computed in whole tiles."""
    shapes = {"Pangu Pro MoE": PANGU} if smoke else SHAPES
    for name, shape in shapes.items():
        for T in (1024,) if smoke else TOKENS:
            s = shape._replace(T=T)
            for router, exponent in ROUTERS.items():
                torch.manual_seed(0)
                (logits,) = router_logits(1, T, s.E, exponent)
                for tile in TILES:
                    for mode in COUNTED:
                        gating = rounded(logits, s, mode, tile)
                        n = gating.counts
                        kept = int((gating.experts[:, : s.K] >= 0).sum())
                        yield {
                            **{"study": "count", "shape": name, "router": router, "mode": mode},
                            **{**sizes_of(s), "tile": tile, "chosen": s.N, "dropped": s.N - kept},
                            **{"added": int(n.sum()) - kept},
                            "computed": int((-(-n // tile) * tile).sum()),
                        }


def timed(smoke: bool) -> Iterator[Row]:
    """A layer of SonicMoE's sparsity, a quarter as wide, forward and backward, in each path."""
    s = Sizes(512, 32, 32, 1, 4, 16) if smoke else Sizes(2048, 384, 128, 1, 8, 64)
    tile, calls = 16 if smoke else 64, dict[str, Callable[[], object]]()
    torch.manual_seed(0)
    x, gate, up, down = (
        (scale * torch.randn(shape)).requires_grad_()
        for scale, shape in (
            (1.0, (s.T, s.H)),
            (s.H**-0.5, (s.E, s.H)),
            (s.H**-0.5, (s.E, 2 * s.F, s.H)),
            (s.F**-0.5, (s.E, s.H, s.F)),
        )
    )

    def layer(mode: str) -> Tensor:
        gating = rounded(x @ gate.T, s, mode, tile)
        rows = moge_ops.route(gating.experts, s.E)
        return moge_ops.grouped_mlp(x, up, down, gating.weights, rows)

    def given(mode: str) -> Callable[[], Tensor]:
        """The experts alone: the choice is made before."""
        gating = rounded((x @ gate.T).detach(), s, mode, tile)
        rows = moge_ops.route(gating.experts, s.E)
        return lambda: moge_ops.grouped_mlp(x, up, down, gating.weights, rows)

    def call(run: Callable[[], Tensor], backend: str) -> Callable[[], None]:
        def both_ways() -> None:
            with moge_ops.testing.backend(backend):
                torch.autograd.grad(run().square().sum(), (x, up, down))

        return both_ways

    for mode in TIMED[: 2 if smoke else None]:
        whole = torch.compile(layer, fullgraph=True, backend="aot_eager" if smoke else "inductor")
        calls[f"torch, compiled: layer/{mode}"] = call(lambda f=whole, m=mode: f(m), "torch")
        for backend in ("torch", "cpu"):
            calls[f"{backend}: layer/{mode}"] = call(lambda m=mode: layer(m), backend)
            calls[f"{backend}: experts/{mode}"] = call(given(mode), backend)
    plan = harness.SMOKE_PLAN if smoke else harness.Plan(seconds=15.0)
    for name, timing in harness.interleave(calls, plan).items():
        path, _, mode = name.partition("/")
        yield {
            **{"study": "time", "shape": "a layer", "mode": mode, **sizes_of(s), "tile": tile},
            **{"path": path, "rounds": timing.rounds, "median_ms": f"{timing.median * 1e3:.4g}"},
            **{"q20_ms": f"{timing.q20 * 1e3:.4g}", "q80_ms": f"{timing.q80 * 1e3:.4g}"},
        }


def trained(args: argparse.Namespace) -> Iterator[Row]:
    """Held-out loss along the training of one model, plain and rounded."""
    tokenizer = byte_tokenizer()
    config = fitted(SMOKE if args.smoke else MODEL, tokenizer, num_hidden_layers=2)
    tile = max(1, args.batch * args.length // 16)  # half of an expert's rows: K/E is 1/8
    for mode in TRAINED:
        torch.manual_seed(args.seed)
        model = PanguMoEForCausalLM(config)
        text = Text(tokenizer, args.batch, args.length, args.seed)
        for layer in model.layers:
            layer.moge.round_to = None if mode == PLAIN else tile
            layer.moge.round_mode = "nearest" if mode == PLAIN else mode
        update = updater(model, args.steps, 3e-3)
        for step in range(args.steps + 1):
            if step % max(1, args.steps // 4) == 0:
                yield {
                    **{"study": "train", "shape": "a model", "mode": mode, "tile": tile},
                    **{"T": args.batch * args.length, "H": config.hidden_size},
                    **{"E": config.num_experts, "G": config.num_groups},
                    **{"K": config.num_experts_per_tok, "F": config.moe_intermediate_size},
                    **{"parameters": f"{model.parameter_counts()[0]:,}", "step": step},
                    "held_out_loss": f"{held_out_loss(model.eval(), text):.4f}",
                }
            ids = text.sample()
            loss, balance = losses(model.train()(ids, return_details=True), ids)
            update(loss + config.router_aux_loss_coef * balance)


def computed(row: Row) -> str:
    changed = 100 * (row["dropped"] + row["added"]) / row["chosen"]
    return f"{row['computed'] / row['chosen']:.3f}; {changed:.1f} %"


def main() -> int:
    parser = harness.example((__doc__ or "").partition("\n")[0], OPTIONS)
    args, started = harness.parsed(parser, OPTIONS), time.perf_counter()
    count, times, losses_ = list(counted(args.smoke)), list(timed(args.smoke)), list(trained(args))
    keys = ("shape", "router", "T", "tile")
    title = "Rows computed / rows chosen; tokens dropped and added, of those that chose"
    tables = (
        printing.pivot(title, count, keys, "mode", computed),
        printing.pivot(
            "Forward and backward, ms", times, ["path"], "mode", itemgetter("median_ms")
        ),
        printing.pivot("Held-out loss", losses_, ["step"], "mode", itemgetter("held_out_loss")),
    )
    shared = harness.origin()
    rows = [{**shared, **row} for row in (*count, *times, *losses_)]
    harness.report(args.out / "sonic_moe.csv", rows, tables, started, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
