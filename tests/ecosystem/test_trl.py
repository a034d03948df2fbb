"""TRL's trainers: their steps are those of a loop that knows nothing of packing and padding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

Tiny = Callable[..., Any]

# bytes of a sequence; two of 9 + 5 and 7 + 7 fill what packing calls a bin of 14
LENGTHS = (9, 5, 7, 7)
RATE = 0.3
SETTINGS: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "train_sampling_strategy": "sequential",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(4, 256, (n,), generator=generator) for n in LENGTHS]


def step(model: Any, loss: Tensor) -> None:
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad


def assert_same_training(model: Any, want: Any, start: Any, tolerance: float) -> None:
    """Each parameter has moved, and as it should: errors are relative to its largest change."""
    for name, parameter in want.named_parameters():
        change = (parameter - start.get_parameter(name)).abs().max()
        assert change > 0, name
        error = (model.get_parameter(name) - parameter).abs().max()
        assert error <= tolerance * change, (name, error / change)


def one_by_one(model: Any) -> Any:
    """Two steps on the mean of all predicted tokens, each sequence on its own."""
    model.train()
    for _ in range(2):
        losses = [
            F.cross_entropy(model(ids.unsqueeze(0)).logits[0, :-1], ids[1:], reduction="sum")
            for ids in sequences()
        ]
        step(model, sum(losses) / (sum(LENGTHS) - len(LENGTHS)))
    return model


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"max_length": 14}, id="padded"),
        pytest.param({"max_length": None, "padding_free": True}, id="padding-free"),
        pytest.param(
            {"max_length": 14, "packing": True, "per_device_train_batch_size": 2}, id="packed"
        ),
        pytest.param({"max_length": 14, "gradient_accumulation_steps": 2}, id="accumulated"),
    ],
)
def test_supervised_steps(
    tiny: Tiny, tokenizer: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    # the auxiliary loss depends on which tokens are together, so it is left out
    data = Dataset.from_dict({"input_ids": [ids.tolist() for ids in sequences()]})
    model = tiny(torch.float64, router_aux_loss_coef=0.0)
    settings = {**SETTINGS, **options}
    if "gradient_accumulation_steps" in options:
        settings["per_device_train_batch_size"] = 2
    trainer = SFTTrainer(
        model,
        SFTConfig(str(tmp_path), **settings),
        train_dataset=data,
        processing_class=tokenizer,
    )
    trainer.train()
    want = one_by_one(tiny(torch.float64))
    assert_same_training(model, want, tiny(torch.float64), tolerance=1e-5)


def test_the_auxiliary_loss_of_supervised_steps_is_mixtrals(
    tiny: Tiny, tokenizer: Any, tmp_path: Path
) -> None:
    # for every model with experts TRL takes Mixtral's, which knows no groups, and not the model's
    rows = torch.stack([torch.cat(sequences()[:2]), torch.cat(sequences()[2:])])
    data = Dataset.from_dict({"input_ids": rows.tolist()})
    model = tiny(torch.float64, router_aux_loss_coef=0.5)
    settings = {**SETTINGS, "per_device_train_batch_size": 2}
    SFTTrainer(
        model,
        SFTConfig(str(tmp_path), **settings),
        train_dataset=data,
        processing_class=tokenizer,
    ).train()
    want = tiny(torch.float64).train()
    for _ in range(2):
        out = want(rows, output_router_logits=True)
        loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
        aux_loss = load_balancing_loss_func(out.router_logits, 64, 8)
        assert not torch.isclose(aux_loss, 8 * out.aux_loss.float(), rtol=1e-3)
        step(want, loss + 0.5 * aux_loss)
    assert_same_training(model, want, tiny(torch.float64), tolerance=1e-5)


def log_probability(model: Any, prompt: Tensor, answer: Tensor) -> Tensor:
    ids = torch.cat([prompt, answer])
    logits = model(ids.unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, answer.unsqueeze(-1)).sum()


def test_preference_steps(tiny: Tiny, tokenizer: Any, tmp_path: Path) -> None:
    beta = 0.3
    text = {
        "prompt": ["abc", "hello"],
        "chosen": ["defg", " you"],
        "rejected": ["xy", " there"],
    }
    model = tiny(torch.float64, router_aux_loss_coef=0.0)
    settings = {**SETTINGS, "per_device_train_batch_size": 2, "beta": beta}
    trainer = DPOTrainer(
        model,
        ref_model=tiny(torch.float64),
        args=DPOConfig(str(tmp_path), **settings),
        train_dataset=Dataset.from_dict(text),
        processing_class=tokenizer,
    )
    trainer.train()

    want, reference = tiny(torch.float64).train(), tiny(torch.float64)
    end = [tokenizer.eos_token_id]
    for _ in range(2):
        losses = []
        for words in zip(*text.values(), strict=True):
            prompt, *answers = (torch.tensor(tokenizer(part).input_ids) for part in words)
            answers = [torch.cat([answer, torch.tensor(end)]) for answer in answers]
            chosen, rejected = (
                log_probability(want, prompt, a) - log_probability(reference, prompt, a).detach()
                for a in answers
            )
            losses.append(-F.logsigmoid(beta * (chosen - rejected)))
        step(want, sum(losses) / len(losses))
    assert_same_training(model, want, tiny(torch.float64), tolerance=1e-5)
