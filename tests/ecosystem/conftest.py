"""Tools that train, adapt, place and serve the Hugging Face model, on a tiny folder.

Their versions are pinned in requirements/ecosystem.txt; ``make test-ecosystem`` makes their
environment and runs these files, which no other environment collects. Nothing here uses a network.
"""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_DISABLED": "true",
}

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from moge_ops.cli import main
from moge_ops.integrations.transformers import register
from moge_ops.models import checkpoint

register()

Tiny = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``moge-ops make-tiny`` writes: two layers, E = 64, G = 8, a byte tokenizer.

    The weights are larger, so that every one of them matters to the logits.
    """
    path = tmp_path_factory.mktemp("tiny") / "model"
    main(["make-tiny", "--dtype", "float32", str(path)])
    model = checkpoint.from_pretrained(path)
    with torch.no_grad():
        for parameter in model.layers.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    (path / "model.safetensors").unlink()
    checkpoint.save_pretrained(model, path)
    return path


@pytest.fixture
def tiny(folder: Path) -> Tiny:
    """Loads the folder anew, in evaluation, by default in float32 as it is stored."""

    def load(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
        coefficient = options.pop("router_aux_loss_coef", None)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
        if coefficient is not None:
            model.config.router_aux_loss_coef = coefficient
        return model

    return load


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def ids() -> Tensor:
    """Two rows of bytes ``[B, L]``."""
    return torch.randint(4, 256, (2, 13), generator=torch.Generator().manual_seed(1))
