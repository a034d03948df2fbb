"""Pangu Pro MoE in vLLM gives the tokens of the reference model, over HTTP and in a process."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moge_ops.models import checkpoint
from moge_ops.models.tokenizer import load_tokenizer

TOKENS = 16
LINE = "moge_ops: the fused gate routes Pangu Pro MoE, 64 experts in 8 groups."


def greedy(folder: Path, prompts: list[list[int]], tokens: int = TOKENS) -> list[list[int]]:
    """The reference model's, each prompt alone."""
    model = checkpoint.from_pretrained(folder)
    out = [model.generate([ids], tokens, temperature=0, eos_token_id=()) for ids in prompts]
    return [rows[0, len(ids) :].tolist() for rows, ids in zip(out, prompts, strict=True)]


def gaps(folder: Path, prompt: list[int], new: list[int]) -> torch.Tensor:
    """How far below the largest logit each new token's is, in standard deviations of its logits."""
    model = checkpoint.from_pretrained(folder, dtype=torch.float64)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + new]))[0, len(prompt) - 1 : -1]
    chosen = logits.gather(-1, torch.tensor(new)[:, None])[:, 0]
    return (logits.amax(-1) - chosen) / logits.std(-1)


@pytest.fixture
def server(tiny: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    """``vllm serve`` on a free port, as `vllm` users start it, and a client of openai."""
    import openai

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("vllm"), "serve", tiny, "--dtype", "float32"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "256"]
    options += ["--enforce-eager", "--served-model-name", "tiny"]
    log = tmp_path / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *options], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-8000:]
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(1)
        else:
            raise AssertionError(log.read_text()[-8000:])
        yield client, log
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def test_a_server_answers_as_the_reference_model(
    server: tuple[Any, Path], tiny: Path, prompts: list[list[int]]
) -> None:
    client, log = server

    def ask(prompt: Any) -> Any:
        asked = client.completions.create(
            model="tiny",
            prompt=prompt,
            temperature=0,
            max_tokens=TOKENS,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
        return asked.choices[0]

    want = greedy(tiny, prompts)
    assert len({tuple(tokens) for tokens in want}) == len(prompts)
    assert [ask(ids).token_ids for ids in prompts] == want  # one after another
    with ThreadPoolExecutor(8) as pool:  # and in batches, of whatever arrives together
        several = list(pool.map(ask, prompts * 4))
    assert [each.token_ids for each in several] == want * 4

    tokenizer = load_tokenizer(tiny)
    text = "The sky is"
    (tokens,) = greedy(tiny, [tokenizer.encode(text)])
    answer = ask(text)
    assert answer.token_ids == tokens
    assert answer.text == tokenizer.decode(tokens)
    asked = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=4,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    assert asked.prompt_token_ids == tokenizer.chat(text)
    (tokens,) = greedy(tiny, [tokenizer.chat(text)], 4)
    assert asked.choices[0].token_ids == tokens
    assert log.read_text().count(LINE) == 1


def test_the_compiled_model_gives_the_same_tokens(
    run: Callable[..., Any], folder: Path, prompts: list[list[int]]
) -> None:
    """Without --enforce-eager, Dynamo traces into the routing function on a CPU."""
    (got, graphs, breaks), logged = run(
        "generate",
        env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        folder=str(folder),
        prompts=prompts,
        tokens=TOKENS,
        graphs=True,
        dtype="float32",
    )
    assert got == greedy(folder, prompts)
    assert logged.count(LINE) == 1
    assert graphs >= 1
    assert breaks == []


def test_two_devices_give_the_same_tokens(
    run: Callable[..., Any], folder: Path, prompts: list[list[int]]
) -> None:
    """vLLM's tensor parallelism, over two processes of one core each."""
    got, logged = run(
        "generate",
        env={"VLLM_CPU_OMP_THREADS_BIND": "0|1"},
        folder=str(folder),
        prompts=prompts,
        tokens=4,
        dtype="float32",
        enforce_eager=True,
        tensor_parallel_size=2,
    )
    assert got == greedy(folder, prompts, 4)
    assert logged.count(LINE) == 2


def test_a_router_in_float32_stays_so_beside_bfloat16(
    run: Callable[..., Any], written: Callable[..., Path], prompts: list[list[int]]
) -> None:
    folder = written(dtype=torch.bfloat16, router=torch.float32)
    (got, routers), _ = run(
        "generate",
        env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        folder=str(folder),
        prompts=prompts,
        tokens=TOKENS,
        routers=True,
        enforce_eager=True,
    )
    stored = load_file(folder / "model.safetensors")
    assert len(routers) == 2
    for i, (dtype, gate, scale_dtype, scale) in enumerate(routers):
        assert dtype == scale_dtype == "torch.float32"
        assert torch.equal(torch.tensor(gate), stored[f"model.layers.{i}.mlp.gate.weight"])
        assert torch.equal(torch.tensor(scale), stored[f"model.layers.{i}.mlp.router_scale"])
    # bfloat16 leaves open which of two nearly equal tokens is taken: each is nearly the likeliest
    behind = torch.cat([gaps(folder, ids, new) for ids, new in zip(prompts, got, strict=True)])
    assert behind.max() < 0.1
    assert behind.mean() < 0.01


def damaged(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> str:
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return str(to)


def test_damaged_folders_are_refused_by_name(
    run: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    up = "model.layers.1.mlp.experts.63.up_proj.weight"
    o = "model.layers.0.self_attn.o_proj.bias"
    folders = [
        damaged(folder, tmp_path / "missing", lambda x: x.pop(up)),
        damaged(folder, tmp_path / "bias", lambda x: x.pop(o)),
        damaged(folder, tmp_path / "more", lambda x: x.update({f"{up}_scale": torch.zeros(1)})),
        damaged(folder, tmp_path / "large", lambda x: x.update({up: torch.zeros(64, 128)})),
    ]
    other = tmp_path / "groups"
    shutil.copytree(folder, other)
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(values | {"num_experts_per_tok": 12}))
    said, _ = run(
        "refusals", env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, folders=[*folders, str(other)]
    )
    misfit = "does not fit its config.json:\n  "
    expected = [
        f"{misfit}missing: {up}",
        f"{misfit}missing: {o}",
        f"{misfit}unexpected: {up}_scale",
        f"{misfit}misshapen: {up} must be [32, 128], got [64, 128]",
        "num_experts_per_tok must be a multiple of num_groups=8, got 12",
    ]
    for message, want in zip(said, expected, strict=True):
        assert want in message
        assert message.startswith(("ValueError", "ValidationError"))
