"""Fixtures of the tests of `make gpu`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from suite import GPU, OPS, module


@pytest.fixture(scope="module", autouse=True)
def _path() -> Iterator[None]:
    with mock.patch.object(sys, "path", [str(GPU), str(OPS), *sys.path]):
        yield


@pytest.fixture
def session(tmp_path: Path) -> Any:
    found = module("gpu_session").Session("layer", tmp_path / "x.csv", tmp_path, "now", smoke=True)
    found.point = "here"
    return found
