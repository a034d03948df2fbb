"""Folders to serve, and processes of vLLM: each test's vLLM runs in a process of its own."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moge_ops.cli import main
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import save_pretrained
from moge_ops.models.tokenizer import write_byte_tokenizer

HERE = Path(__file__).parent
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(HERE / "site"),  # vLLM starts further processes, which need it too
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
    "VLLM_NO_USAGE_STATS": "1",
}
# one prompt is of one token, and one is longer than a block of the cache
PROMPTS = [[1, 5, 9, 70, 33], [1, 200, 100, 50], [1, *range(4, 150)], [1, 4]]


def write(folder: Path, *, dtype: torch.dtype = torch.float32, router: Any = None) -> Path:
    """A random model and a byte tokenizer, in the released layout; more of it is random than of
    ``make-tiny``'s: biases and router scales too.
    """
    folder.mkdir(exist_ok=True)
    tokenizer = write_byte_tokenizer(folder)
    torch.manual_seed(0)
    config = PanguMoEConfig(
        vocab_size=tokenizer.size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=64,
        max_position_embeddings=4096,
        initializer_range=0.2,
        eos_token_id=3,
    )
    model = PanguMoEForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        elif name.endswith("router_scale"):
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
        wide = router is not None and name.endswith(("moge.gate", "router_scale"))
        parameter.data = parameter.data.to(router if wide else dtype)
    save_pretrained(model, folder)
    return folder


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    return PROMPTS


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """:func:`write`, into a folder of the test."""
    return lambda **options: write(tmp_path / "model", **options)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in float32, in which greedy tokens can be compared exactly."""
    return write(tmp_path_factory.mktemp("float32"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `moge-ops make-tiny` writes."""
    made = tmp_path_factory.mktemp("tiny") / "model"
    main(["make-tiny", str(made), "--dtype", "float32"])
    return made


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """For a process of vLLM; what it remembers of models stays with the test."""
    made = {**os.environ, **ENVIRONMENT, "VLLM_CACHE_ROOT": str(tmp_path / "cache")}
    # the command `vllm` asks for the version of a package `vllm`, by which it also sees the CPU
    about = tmp_path / "names" / "vllm.dist-info"
    about.mkdir(parents=True)
    version = importlib.metadata.version("vllm-cpu")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    made["PYTHONPATH"] += f"{os.pathsep}{about.parent}"
    return made


@pytest.fixture
def run(environment: dict[str, str]) -> Callable[..., tuple[Any, str]]:
    """Calls a function of ``worker.py`` in a process; its result, and what vLLM logged."""

    def call(name: str, *, env: dict[str, str] | None = None, **arguments: Any) -> tuple[Any, str]:
        done = subprocess.run(
            [sys.executable, HERE / "worker.py", name, json.dumps(arguments)],
            env={**environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=900,
        )
        logged = done.stdout + done.stderr
        assert done.returncode == 0, logged[-8000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        return json.loads(line.removeprefix("RESULT ")), logged

    return call
