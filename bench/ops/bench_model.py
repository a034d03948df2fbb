"""Times Pangu Pro MoE at 200M parameters against itself with Hugging Face's eager experts.

Both models are the same but for the routed experts: they share weights, attention, router and
shared expert, run in turns in one process, and their logits are compared before any timing. One
decode step is one token for each row after 64 cached ones; a prefill is 512 tokens of one row.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import harness
import printing
import torch
import torch.nn.functional as F
from problem import OURS, Work
from rich.table import Table
from torch import Tensor, nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from moge_ops import swiglu
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.testing import Sizes, rms_error

THEIRS = "hf eager"
TARGETS = {"decode, batch 1": 3.0, "decode, batch 8": 6.0, "prefill, batch 1": 2.0}
# limit for the logits: where rounding makes two scores change places, another expert answers
RMS = 0.05

# both have the released model's proportions: E 64, G 8, F about H/4, S = 4F, and heads of 128
SHAPES = {
    "deep": PanguMoEConfig(  # its depth, at a twentieth of its width
        vocab_size=57344,
        hidden_size=256,
        num_hidden_layers=48,
        num_attention_heads=2,
        num_key_value_heads=1,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=256,
    ),
    "wide": PanguMoEConfig(
        vocab_size=32768,
        hidden_size=512,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=1,
        moe_intermediate_size=128,
        shared_expert_intermediate_size=512,
    ),
}
SMOKE = PanguMoEConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_experts=8,
    num_experts_per_tok=4,
    num_groups=4,
    moe_intermediate_size=16,
    shared_expert_intermediate_size=32,
)


class EagerExperts(nn.Module):
    """A MoGE block whose routed experts are Hugging Face's eager ones, on the same weights."""

    def __init__(self, moge: MoGE) -> None:
        super().__init__()
        E, H, F_ = moge.w_down.shape
        config = Qwen3MoeConfig(
            hidden_size=H,
            moe_intermediate_size=F_,
            num_experts=E,
            num_experts_per_tok=moge.num_groups * moge.k,
        )
        config._experts_implementation = "eager"
        with torch.device("meta"):
            self.experts: Any = Qwen3MoeExperts(config)  # type: ignore[no-untyped-call]
        self.experts.gate_up_proj, self.experts.down_proj = moge.w_gate_up, moge.w_down
        self.moge = moge

    def forward(
        self,
        x: Tensor,
        *,
        return_routing: bool,
        row_mask: Tensor | None = None,
        routing: None = None,
    ) -> MoGEOutput:
        tokens = x.flatten(0, -2)
        logits, gating = self.moge.router(tokens)
        y = self.experts(tokens, gating.experts.long(), gating.weights.to(x.dtype))
        y = y + F.linear(swiglu(F.linear(tokens, self.moge.shared_gate_up)), self.moge.shared_down)
        return MoGEOutput(y.view_as(x), logits, gating)


def models(config: PanguMoEConfig, dtype: torch.dtype) -> dict[str, PanguMoEForCausalLM]:
    """The model, and one of the same weights with the other experts."""
    ours = PanguMoEForCausalLM(config).to(dtype).eval()
    # as wide as a trained model's: tokens stay apart, and a random router uses all experts evenly
    nn.init.normal_(ours.embed.weight)
    with torch.device("meta"):
        theirs = PanguMoEForCausalLM(config).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    for layer in theirs.layers:
        layer.moge = EagerExperts(layer.moge)
    return {OURS: ours, THEIRS: theirs}


class Case(NamedTuple):
    """One call: a forward pass of `tokens` tokens in each row, after `cached` ones."""

    direction: str  # "decode" or "prefill"
    batch: int
    tokens: int
    cached: int

    @property
    def name(self) -> str:
        return f"{self.direction}, batch {self.batch}"

    def run(self, model: PanguMoEForCausalLM, ids: Tensor) -> Callable[[], Tensor]:
        """One call, as ``generate`` makes it; of ``ids`` those before the last ones are cached."""
        start = ids.shape[1] - self.tokens
        cache = model.new_cache(*ids.shape)
        with torch.inference_mode():
            model(ids, cache=cache, logits_to_keep=1)

        def call() -> Tensor:
            cache.length = start
            with torch.inference_mode():
                return model(ids[:, start:], cache=cache, logits_to_keep=1)

        return call


CASES = [Case("decode", 1, 1, 64), Case("decode", 8, 1, 64), Case("prefill", 1, 512, 0)]


def work(model: PanguMoEForCausalLM, ids: Tensor) -> Work:
    """Two FLOPs for each active weight and token, the head's for one of each row; weights once."""
    with torch.inference_mode():
        gatings = model(ids, return_details=True).gating
    config, (total, active) = model.config, model.parameter_counts()
    embedding = model.embed.weight.numel()
    unused = sum(int((gating.counts == 0).sum()) for gating in gatings)
    expert = 3 * config.moe_intermediate_size * config.hidden_size
    flops = 2 * (ids.numel() * (active - 2 * embedding) + ids.shape[0] * embedding)
    return Work(flops, (total - embedding - unused * expert) * model.embed.weight.element_size())


def measure(
    shape: str, config: PanguMoEConfig, dtype: torch.dtype, plan: harness.Plan
) -> Iterator[dict[str, dict[str, Any]]]:
    """Rows of the CSV by variant, one case after the other."""
    torch.manual_seed(0)
    both = models(config, dtype)
    for case in CASES:
        ids = torch.randint(0, config.vocab_size, (case.batch, case.cached + case.tokens))
        calls = {name: case.run(model, ids) for name, model in both.items()}
        ours, theirs = (calls[name]() for name in (OURS, THEIRS))
        error = rms_error(ours, theirs)
        if not error <= RMS:
            raise AssertionError(f"{shape} {case.name}: logits differ, RMS {error:.3g} > {RMS}")
        tokens = case.batch * case.tokens
        done = work(both[OURS], ids[:, case.cached :])
        sizes = Sizes(
            *(tokens, config.hidden_size, config.num_experts, config.num_groups),
            *(config.num_experts_per_tok // config.num_groups, config.moe_intermediate_size),
        )
        timings = harness.interleave(calls, plan)
        yield {
            name: {
                "op": f"pangu_moe {shape}",
                "variant": name,
                "dtype": str(dtype).removeprefix("torch."),
                "direction": case.name,
                **sizes._asdict(),
                **harness.measured(timing, done),
                "rms_error": f"{error:.3g}",
                "note": f"{tokens / timing.median:.4g} tokens/s",
            }
            for name, timing in timings.items()
        }


def main() -> int:
    parser = harness.parser(__doc__, "model.csv")
    parser.add_argument("--shape", choices=SHAPES, help="only this one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    shapes = {args.shape: SHAPES[args.shape]} if args.shape else SHAPES
    plan = harness.Plan(seconds=20.0)
    if args.smoke:
        shapes, plan = {"smoke": SMOKE}, harness.SMOKE_PLAN
    environment = harness.environment()
    table = Table(title="tokens per second (median)", caption_justify="left")
    for heading in ("shape", "case", OURS, THEIRS, "ratio", "target"):
        table.add_column(heading, justify="left" if heading in ("shape", "case") else "right")
    for shape, config in shapes.items():
        for rows in measure(shape, config, torch.bfloat16, plan):
            harness.append(args.out, [environment | row for row in rows.values()])
            case = rows[OURS]["direction"]
            ratio = float(rows[THEIRS]["median_ms"]) / float(rows[OURS]["median_ms"])
            target = TARGETS[case]
            rates = (rows[name]["note"].removesuffix(" tokens/s") for name in (OURS, THEIRS))
            style = None if args.smoke or ratio >= target else "red"
            table.add_row(shape, case, *rates, f"{ratio:.2f}", f"{target:g}", style=style)
    printing.console(100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
