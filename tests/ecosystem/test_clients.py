"""Clients that load a folder by its name: pipelines, lm-eval, ``transformers serve``."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

Tiny = Callable[..., Any]


def greedy(model: Any, ids: Tensor, n: int) -> Tensor:
    """The next tokens, by as many whole forwards."""
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids[0, start:]


def test_pipeline_generates_text(folder: Path, tiny: Tiny, tokenizer: Any) -> None:
    pipe = transformers.pipeline("text-generation", model=str(folder))
    (out,) = pipe("The sky", max_new_tokens=8, do_sample=False, return_full_text=False)
    ids = tokenizer("The sky", return_tensors="pt").input_ids
    assert out["generated_text"] == tokenizer.decode(greedy(tiny(), ids, 8))


TASK = """
task: bytes
dataset_path: json
dataset_kwargs:
  data_files: {data}
output_type: loglikelihood
test_split: train
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: perplexity
  - metric: acc
"""
DOCUMENTS = [
    {"text": "The sky is", "answer": " blue"},
    {"text": "Two and two are", "answer": " four"},
    {"text": "a", "answer": " b c d"},
]


@pytest.fixture
def task(tmp_path: Path) -> TaskManager:
    """The task "bytes" of lm-eval, on a file here."""
    data = tmp_path / "documents.json"
    data.write_text("\n".join(json.dumps(document) for document in DOCUMENTS))
    (tmp_path / "bytes.yaml").write_text(TASK.format(data=data))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def log_likelihood(model: Any, tokenizer: Any, text: str, answer: str) -> tuple[float, bool]:
    prompt, ids = (tokenizer(part, return_tensors="pt").input_ids for part in (text, text + answer))
    with torch.no_grad():
        logits = model(ids).logits[0, prompt.shape[1] - 1 : -1].double()
    wanted = ids[0, prompt.shape[1] :]
    chosen = logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).sum()
    return chosen.item(), bool((logits.argmax(-1) == wanted).all())


def test_lm_eval_scores_a_folder(
    folder: Path, tiny: Tiny, tokenizer: Any, task: TaskManager
) -> None:
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=["bytes"],
        task_manager=task,
        batch_size=2,
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["bytes"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(DOCUMENTS)
    model, scores = tiny(), []
    for sample, document in zip(samples, DOCUMENTS, strict=True):
        want, best = log_likelihood(model, tokenizer, document["text"], document["answer"])
        ((got, greedy_answer),) = (response[0] for response in sample["resps"])
        assert float(got) == pytest.approx(want, rel=1e-5)
        assert str(greedy_answer) == str(best)
        scores.append(want)
    perplexity = results["results"]["bytes"]["perplexity,none"]
    assert perplexity == pytest.approx(
        torch.tensor(scores, dtype=torch.float64).mean().neg().exp().item(), rel=1e-5
    )


def test_lm_eval_generates(folder: Path, tiny: Tiny, tokenizer: Any) -> None:
    lm = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=3)
    options = {"until": ["\0"], "max_gen_toks": 6, "do_sample": False}
    requests = [
        Instance("generate_until", document, (document["text"], dict(options)), i)
        for i, document in enumerate(DOCUMENTS)
    ]
    got = lm.generate_until(requests, disable_tqdm=True)  # unequal prompts, padded at the left
    model = tiny()
    for text, document in zip(got, DOCUMENTS, strict=True):
        ids = tokenizer(document["text"], return_tensors="pt").input_ids
        want = tokenizer.decode(greedy(model, ids, 6), skip_special_tokens=True)
        assert text == want.split("\0")[0]


SERVER = """
import sys
from moge_ops.integrations.transformers import register
register()
sys.argv = ["transformers", "serve", *sys.argv[1:]]
from transformers.cli.transformers import main
main()
"""


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-c", SERVER, *command], cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_transformers_serve_answers(server: str, folder: Path, tiny: Tiny, tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    body = {
        "model": str(folder),
        "messages": messages,
        "max_tokens": 8,
        "temperature": 0,
        "stream": False,
    }
    request = urllib.request.Request(
        f"{server}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).input_ids
    want = tokenizer.decode(greedy(tiny(), ids, 8), skip_special_tokens=True)
    assert answer["choices"][0]["message"]["content"] == want
