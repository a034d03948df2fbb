"""transformers' Trainer: every step, every saved tensor and every loss is what it should be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Trainer, TrainingArguments

# labels per row: unequal, so that a mean of means differs from the mean
LABELLED = (12, 3, 7, 1, 9, 12, 2, 5)
RATE = 0.3


def rows(n: int = 8, L: int = 13) -> list[dict[str, Tensor]]:
    ids = torch.randint(4, 256, (n, L), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    for row, count in zip(labels, LABELLED, strict=False):
        row[: L - count] = -100
    return [{"input_ids": i, "labels": target} for i, target in zip(ids, labels, strict=True)]


def trainer(model: Any, folder: Path, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = TrainingArguments(str(folder), **{**settings, **options})
    return Trainer(model, args, train_dataset=rows(), eval_dataset=rows(6))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the labelled tokens."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def plain_loop(model: Any, micro: int, coefficient: float, steps: int = 3) -> Any:
    """SGD on the loss by its definition, in float64: 4 rows a step, ``micro`` at a time."""
    model.train()
    data = rows()
    for step in range(steps):
        batch = [data[i % 8] for i in range(4 * step, 4 * step + 4)]
        total = sum(int((row["labels"][1:] != -100).sum()) for row in batch)
        model.zero_grad()
        for start in range(0, 4, micro):
            part = batch[start : start + micro]
            labels = torch.stack([row["labels"] for row in part])
            out = model(torch.stack([row["input_ids"] for row in part]), output_router_logits=True)
            share = (labels[:, 1:] != -100).sum() / total
            loss = cross_entropy(out.logits, labels) / total + coefficient * share * out.aux_loss
            loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= RATE * parameter.grad
    return model


def assert_same_training(model: Any, want: Any, start: Any) -> None:
    """Each parameter has moved, and as it should: errors are relative to its largest change."""
    for name, parameter in want.named_parameters():
        change = (parameter - start.get_parameter(name)).abs().max()
        assert change > 0, name
        assert (model.get_parameter(name) - parameter).abs().max() <= 1e-6 * change, name


@pytest.mark.parametrize("micro", [4, 2, 1])
def test_steps_are_those_of_a_plain_loop(
    tiny: Callable[..., Any], tmp_path: Path, micro: int
) -> None:
    model = tiny(torch.float64, router_aux_loss_coef=0.5)
    trainer(
        model,
        tmp_path,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=4 // micro,
    ).train()
    want = plain_loop(tiny(torch.float64), micro, coefficient=0.5)
    assert_same_training(model, want, tiny(torch.float64))


def test_accumulated_gradients_are_those_of_one_batch(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    # without the auxiliary loss, which is not a sum over tokens
    models = []
    for micro in (4, 1):
        model = tiny(torch.float64, router_aux_loss_coef=0.0)
        trainer(
            model,
            tmp_path,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=4 // micro,
        ).train()
        models.append(model)
    assert_same_training(models[1], models[0], tiny(torch.float64))


def test_gradient_checkpointing_changes_nothing(tiny: Callable[..., Any], tmp_path: Path) -> None:
    models = []
    for checkpointing in (False, True):
        model = tiny(torch.float64)
        trainer(model, tmp_path, gradient_checkpointing=checkpointing).train()
        models.append(model)
    for name, parameter in models[0].named_parameters():
        assert torch.equal(models[1].get_parameter(name), parameter), name


def test_evaluation_is_the_cross_entropy_alone(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny(router_aux_loss_coef=10.0)
    data = rows(6)
    got = trainer(model, tmp_path).evaluate()["eval_loss"]
    oracle = tiny(torch.float64)
    losses, counts = [], []
    with torch.no_grad():
        for start in (0, 4):  # batches of 4 and 2, whose means are weighted by their rows
            part = data[start : start + 4]
            labels = torch.stack([row["labels"] for row in part])
            logits = oracle(torch.stack([row["input_ids"] for row in part])).logits
            losses.append(cross_entropy(logits, labels) / (labels[:, 1:] != -100).sum())
            counts.append(len(part))
    want = sum(loss * n for loss, n in zip(losses, counts, strict=True)) / sum(counts)
    assert got == pytest.approx(want.item(), rel=1e-6)


def test_predictions_are_plain_logits(tiny: Callable[..., Any], tmp_path: Path) -> None:
    out = trainer(tiny(), tmp_path).predict(rows(6))
    assert isinstance(out.predictions, np.ndarray)
    with torch.no_grad():
        want = tiny()(torch.stack([row["input_ids"] for row in rows(6)])).logits
    np.testing.assert_allclose(out.predictions, want.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out.label_ids, torch.stack([row["labels"] for row in rows(6)]))


def assert_equal_models(a: Any, b: Any) -> None:
    state = b.state_dict()
    assert a.state_dict().keys() == state.keys()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_resumes_where_it_stopped(tiny: Callable[..., Any], tmp_path: Path) -> None:
    options = {"optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "linear"}
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = tiny()
    trainer(whole, tmp_path / "whole", max_steps=4, **options, **saving).train()
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        "checkpoint-2",
        "checkpoint-4",
    }
    resumed = tiny()
    again = trainer(resumed, tmp_path / "whole", max_steps=4, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert again.state.global_step == 4
    assert_equal_models(resumed, whole)
    start = tiny()
    assert all(
        not torch.equal(parameter, start.get_parameter(name))
        for name, parameter in whole.named_parameters()
    )


def test_the_best_of_all_steps_is_loaded(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny()
    # the rate is so large that the loss soon rises
    run = trainer(
        model,
        tmp_path,
        max_steps=3,
        learning_rate=30.0,
        load_best_model_at_end=True,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    run.train()
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    best = int(np.argmin(losses)) + 1
    assert best < 3
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert_equal_models(model, type(model).from_pretrained(tmp_path / f"checkpoint-{best}"))
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_saves_twice_into_one_folder(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny()
    run = trainer(model, tmp_path)
    run.save_model(str(tmp_path / "out"))
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    run.train()
    run.save_model(str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert_equal_models(type(model).from_pretrained(tmp_path / "out"), model)
