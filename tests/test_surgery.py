"""Experts that move to other places, and layers that compute the same afterwards."""

import copy

import pytest
import torch
from torch import Tensor

from moge_ops.nn import MoGE
from moge_ops.surgery import permute_experts

H, F, E, G = 24, 16, 12, 3


def layer_with_everything(k: int = 2) -> MoGE:
    layer = MoGE(H, F, E, G, k, score="sigmoid", selection_bias=True, shared_size=8)
    with torch.no_grad():
        for x in (layer.router_scale, layer.bias):
            assert isinstance(x, Tensor)
            x.uniform_(0.5, 1.5)
    layer.expert_mask = torch.arange(E) % 4 != 1
    return layer


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([[2, 0, 3, 1], [5, 4, 6, 7], [8, 9, 11, 10]], id="within-groups"),
        pytest.param([[8, 9, 10, 11], [3, 2, 0, 1], [4, 5, 6, 7]], id="groups-too"),
    ],
)
def test_the_function_survives_a_permutation(order: list[list[int]]) -> None:
    layer = layer_with_everything()
    before, perm = copy.deepcopy(layer), torch.tensor(order).flatten()
    parameters = {name: id(p) for name, p in layer.named_parameters()}
    permute_experts(layer, perm)
    assert {name: id(p) for name, p in layer.named_parameters()} == parameters

    x = torch.randn(7, H)
    y, logits, gating = layer(x, return_routing=True)
    want, want_logits, want_gating = before(x, return_routing=True)
    torch.testing.assert_close(logits, want_logits[:, perm])
    assert gating.counts.equal(want_gating.counts[perm])
    assert perm[gating.experts].sort(1).values.equal(want_gating.experts.sort(1).values.long())
    if order[0][0] < 4:
        assert y.equal(want)
    torch.testing.assert_close(y, want)

    permute_experts(layer, perm.argsort().tolist())
    for (name, x), y in zip(layer.named_buffers(), before.buffers(), strict=True):
        assert x.equal(y), name
    for name, x in layer.state_dict().items():
        assert x.equal(before.state_dict()[name]), name


@pytest.mark.parametrize(
    ("perm", "message"),
    [
        ([0, 1, 2], r"permutation of 0 to 11, got \[0, 1, 2\]"),
        ([0, *range(11)], r"permutation of 0 to 11, got \[0, 0, 1"),
        ([[*range(12)]], r"permutation of 0 to 11, got \[\[0, 1"),
        (
            [0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11],
            r"group 0 the experts of one group, 0 to 3, got \[0, 1, 2, 4\]",
        ),
        (
            [0, 1, 2, 3, 8, 9, 6, 7, 4, 5, 10, 11],
            r"group 1 the experts of one group, 4 to 7, got \[8, 9, 6, 7\]",
        ),
    ],
)
def test_refuses_what_breaks_a_group(perm: list[int], message: str) -> None:
    layer = layer_with_everything()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=message):
        permute_experts(layer, perm)
    assert all(x.equal(before[name]) for name, x in layer.state_dict().items())


@pytest.mark.parametrize(
    ("perm", "got"),
    [
        (torch.tensor([True, False]), "bool"),
        ([True, False], "bool"),
        ([0, True], "bool"),
        (torch.tensor([1.0, 0.0]), "float32"),
        ([1.0, 0.0], "float32"),
        (torch.tensor([1, 0], dtype=torch.complex64), "complex64"),
    ],
    ids=repr,
)
def test_refuses_what_are_no_ints(perm: list[int] | Tensor, got: str) -> None:
    layer = MoGE(H, F, 2, 1, 1)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TypeError, match=f"perm must hold ints, a permutation of 0 to 1, got {got}"):
        permute_experts(layer, perm)
    assert all(x.equal(before[name]) for name, x in layer.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_ints_are_a_permutation(dtype: torch.dtype) -> None:
    layer, perm = MoGE(H, F, 3, 1, 1), [2, 0, 1]
    want = layer.gate[perm]
    permute_experts(layer, torch.tensor(perm, dtype=dtype))  # of uint8 an index would be a mask
    assert layer.gate.equal(want)


def test_refuses_an_empty_permutation() -> None:
    with pytest.raises(ValueError, match=r"permutation of 0 to 1, got \[\]"):
        permute_experts(MoGE(H, F, 2, 1, 1), [])
