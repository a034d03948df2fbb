"""What the tests let vLLM do in a process of its own; prints one line of JSON."""

import dataclasses
import json
import os
import sys
import tempfile
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch


def engine(folder: str, **options: Any) -> Any:
    from vllm import LLM

    return LLM(folder, max_model_len=256, max_num_seqs=8, seed=0, **options)


def generate(
    folder: str,
    prompts: list[list[int]],
    tokens: int,
    routers: bool = False,
    graphs: bool = False,
    **options: Any,
) -> Any:
    """Greedy tokens; with ``routers`` also what each router makes of the unit vectors.

    With ``graphs`` also how many graphs Dynamo made of the model, and why one was broken off.
    """
    from vllm import SamplingParams

    llm = engine(folder, **options)
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    out = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling)
    new = [list(each.outputs[0].token_ids) for each in out]
    if graphs:
        from torch._dynamo.utils import counters

        return [new, counters["stats"]["unique_graphs"], list(counters["graph_break"])]
    return [new, llm.apply_model(look)[0]] if routers else new


def look(model: Any) -> list[Any]:
    """Of each layer: dtype of the logits, the router's matrix, which vLLM packs, and its scale."""
    found = []
    for layer in model.model.layers:
        units = torch.eye(model.sizes.hidden_size, dtype=torch.bfloat16)
        logits, _ = layer.mlp.gate(units)
        scale = layer.mlp.router_scale
        found.append([str(logits.dtype), logits.T.tolist(), str(scale.dtype), scale.tolist()])
    return found


def refusals(folders: list[str], **options: Any) -> list[str]:
    """What vLLM says to each folder that it must not serve."""
    said = []
    for folder in folders:
        try:
            engine(folder, enforce_eager=True, dtype="float32", **options)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
        else:
            said.append("served")
    return said


def registry() -> dict[str, Any]:
    """Intern-S1-Pro as vLLM's registry has it, inspected twice and loaded, and vLLM's own."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.registry import _LazyRegisteredModel
    from vllm.plugins import load_general_plugins

    from moge_ops.integrations import vllm

    load_general_plugins()
    entry = ModelRegistry.models[vllm.INTERN]
    lazy = vllm.INTERN_HOME not in sys.modules
    infos = [dataclasses.asdict(entry.inspect_model_cls()) for _ in range(2)]
    still_lazy = vllm.INTERN_HOME not in sys.modules
    own = _LazyRegisteredModel(vllm.INTERN_HOME, vllm.INTERN)
    infos.append(dataclasses.asdict(own.inspect_model_cls()))
    loaded = entry.load_model_cls()
    home = sys.modules[vllm.INTERN_HOME]
    method = home.InternS1ProMoeSparseMoeBlock._custom_routing_function
    return {
        "lazy": lazy and still_lazy,
        "module": entry.module_name,
        "infos": infos,
        "same": loaded is getattr(home, vllm.INTERN),
        "ours": bool(getattr(method, "moge_ops", False)),
        "code": method.__code__.co_filename,
        "pangu": vllm.PANGU in ModelRegistry.models,
    }


def block(experts: int, groups: int, top_k: int, rows: list[int]) -> list[list[float]]:
    """vLLM's own block of Intern-S1-Pro over its experts for CPUs, with our routing and with its.

    Returns:
        For each number of tokens, the largest output and the largest difference of the two.
    """
    from vllm import ModelRegistry
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.forward_context import set_forward_context
    from vllm.plugins import load_general_plugins

    from moge_ops.integrations import vllm

    load_general_plugins()
    ModelRegistry.models[vllm.INTERN].load_model_cls()
    cls = sys.modules[vllm.INTERN_HOME].InternS1ProMoeSparseMoeBlock
    H = 64
    sizes = SimpleNamespace(
        num_experts=experts,
        num_experts_per_tok=top_k,
        hidden_size=H,
        moe_intermediate_size=32,
        norm_topk_prob=True,
        router_n_groups=groups,
    )
    config = VllmConfig()
    model_config = SimpleNamespace(hf_text_config=sizes, dtype=torch.float32, is_moe=True)
    object.__setattr__(config, "model_config", model_config)
    torch.manual_seed(0)
    out = []
    with set_current_vllm_config(config), tempfile.TemporaryDirectory() as at:
        init_distributed_environment(1, 0, f"file://{at}/store", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        made = cls(config, "model.layers.0.mlp")
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        for module in made.modules():
            finish = getattr(
                getattr(module, "quant_method", None), "process_weights_after_loading", 0
            )
            if finish:
                finish(module)
        ours = made.experts.router.custom_routing_function
        assert ours.__func__.moge_ops
        for T in rows:
            x, results = torch.randn(T, H), []
            for routing in (ours, ours.__func__.__wrapped__.__get__(made)):
                counted = mock.Mock(side_effect=routing)
                made.experts.router.custom_routing_function = counted
                with set_forward_context(None, config, num_tokens=T), torch.inference_mode():
                    results.append(made(x))
                assert counted.call_count == 1
            assert results[0].shape == (T, H)
            largest = [results[0].abs(), (results[0] - results[1]).abs()]
            out.append([float(y.max()) if T else 0.0 for y in largest])
    return out


if __name__ == "__main__":
    name, arguments = sys.argv[1:]
    result = globals()[name](**json.loads(arguments))
    sys.stdout.write(f"\nRESULT {json.dumps(result)}\n")
    sys.stdout.flush()
    # vLLM's threads and engine processes need no orderly end
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
        os._exit(0)
