"""Narrower experts: scores of neurons by another way, and layers without some of them."""

import copy
import math

import pytest
import torch
from surgery_models import E, F, G, H, S, a_layer, a_model, some_ids
from torch import Tensor, nn

from moge_ops.nn import MoGE
from moge_ops.quant import quantize_experts
from moge_ops.surgery import Sensitivity, distillation_loss, expert_sensitivity, slim_experts


def exact_loss(s: Tensor, z: Tensor, top: int, rest: bool = False) -> Tensor:
    """The mean over tokens of KL(q, p), token by token."""
    found = []
    for student, teacher in zip(s.flatten(0, -2), z.flatten(0, -2), strict=True):
        best = sorted(range(len(teacher)), key=lambda v: -float(teacher[v]))[:top]
        others = [v for v in range(len(teacher)) if v not in best]
        p, q = student.exp() / student.exp().sum(), teacher.exp() / teacher.exp().sum()
        mass = 1.0 if rest else sum(q[v] for v in best)
        terms = [q[v] / mass * (q[v] / mass / p[v]).log() for v in best]
        if rest and others:
            terms.append(q[others].sum() * (q[others].sum() / p[others].sum()).log())
        found.append(torch.stack(terms).sum())
    return torch.stack(found).mean()


class TestDistillation:
    @pytest.mark.parametrize("rest", [True, False])
    def test_is_the_divergence_on_the_likeliest_tokens(self, rest: bool) -> None:
        s, z = torch.randn(2, 2, 3, 20, dtype=torch.float64)
        for top in (1, 8, 20):
            found = distillation_loss(s, z, top, rest=rest)
            torch.testing.assert_close(found, exact_loss(s, z, top, rest))
        assert distillation_loss(z, z, 20, rest=rest).abs() < 1e-12
        assert (distillation_loss(z, z, rest=rest) > 1e-3) != rest
        assert distillation_loss(s.half(), z.half()).dtype == torch.float32

    def test_gradients_where_the_student_is_its_teacher(self) -> None:
        z = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
        for rest, least, most in ((True, 0.0, 1e-12), (False, 1e-3, 1.0)):
            (grad,) = torch.autograd.grad(distillation_loss(z, z, rest=rest), z)
            assert least <= grad.abs().max() < most

    @pytest.mark.parametrize("rest", [True, False])
    def test_tokens_that_never_come_count_for_nothing(self, rest: bool) -> None:
        z = torch.tensor([[0.0, -1e5, -torch.inf, -torch.inf]], requires_grad=True)
        loss = distillation_loss(torch.zeros(1, 4), z, 2, rest=rest)
        torch.testing.assert_close(loss, torch.tensor(math.log(4)))
        assert not loss.requires_grad
        assert distillation_loss(z, z, 2, rest=rest) == 0

    @pytest.mark.parametrize("rest", [True, False])
    @pytest.mark.parametrize("top", [1, 2, 3, 4])
    def test_gradients_beside_tokens_that_cannot_come(self, top: int, rest: bool) -> None:
        z = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
        s = (2 * z).requires_grad_()
        loss = distillation_loss(s, z, top, rest=rest)
        possible = s[:, :2].detach().requires_grad_()
        want = distillation_loss(possible, z[:, :2], min(top, 2), rest=rest)
        torch.testing.assert_close(loss, want)
        (grad,) = torch.autograd.grad(loss, s)
        torch.testing.assert_close(grad[:, :2], torch.autograd.grad(want, possible)[0])
        assert grad[:, 2:].eq(0).all()

    def test_no_tokens_have_no_loss(self) -> None:
        z = torch.zeros(0, 5, requires_grad=True)
        loss = distillation_loss(z, z, 2)
        loss.backward()
        assert loss == 0

    def test_refuses(self) -> None:
        z = torch.zeros(2, 5)
        with pytest.raises(ValueError, match=r"logits must be \[..., V\] = \[2, 5\], got \[2, 4\]"):
            distillation_loss(torch.zeros(2, 4), z, 1)
        with pytest.raises(ValueError, match="top must be"):
            distillation_loss(z, z)  # eight of five


class Scaled(nn.Module):
    """A model in which one neuron's three vectors are multiplied by a number."""

    def __init__(self, model: nn.Module, layer: MoGE, e: int, f: int) -> None:
        super().__init__()
        self.model, self.layer, self.e, self.f = model, layer, e, f

    def loss(self, ids: Tensor, teacher: Tensor, factor: float) -> Tensor:
        layer = copy.deepcopy(self.layer.state_dict())
        with torch.no_grad():
            for rows in (self.f, self.f + F):
                self.layer.w_gate_up[self.e, rows] *= factor
            self.layer.w_down[self.e, :, self.f] *= factor
            loss = exact_loss(self.model(ids), teacher, 8)
            self.layer.load_state_dict(layer)
        return loss


class TestSensitivity:
    def test_is_autograd_by_explicit_sums(self) -> None:
        model, teacher = a_model().double(), a_model(num_hidden_layers=1).double()
        batches = [some_ids(1), some_ids(2)]
        found = expert_sensitivity(model, batches, teacher=teacher)
        assert list(found) == ["layers.0.moge", "layers.1.moge"]
        assert all(p.grad is None for p in model.parameters())
        for name, scores in found.items():
            moge = model.get_submodule(name)
            experts, shared = torch.zeros(E, F).double(), torch.zeros(S).double()
            for ids in batches:
                model.zero_grad()
                exact_loss(model(ids), teacher(ids).detach(), 8).backward()
                for e in range(E):
                    up, down = moge.w_gate_up, moge.w_down
                    for f in range(F):
                        parts = [(up[e, f], up.grad[e, f]), (up[e, F + f], up.grad[e, F + f])]
                        parts.append((down[e, :, f], down.grad[e, :, f]))
                        experts[e, f] += abs(sum((w @ g).item() for w, g in parts))
                up, down = moge.shared_gate_up, moge.shared_down
                for f in range(S):
                    parts = [(up[f], up.grad[f]), (up[S + f], up.grad[S + f])]
                    parts.append((down[:, f], down.grad[:, f]))
                    shared[f] += abs(sum((w @ g).item() for w, g in parts))
            torch.testing.assert_close(scores.experts, experts)
            torch.testing.assert_close(scores.shared, shared)
            assert scores.experts.dtype == torch.float64

    def test_is_the_change_of_the_loss_to_first_order(self) -> None:
        """The loss with a neuron's weights times 1 - h, against the loss as it is."""
        model, ids = a_model().double(), some_ids()
        teacher = model(ids).detach()
        layer = model.layers[1].moge
        found = expert_sensitivity(model, [ids])["layers.1.moge"].experts
        h, checked = 1e-4, 0
        for e, f in [(0, 0), (1, 5), (4, 47), (6, 20), (7, 31), (11, 9)]:
            scaled = Scaled(model, layer, e, f)
            change = (scaled.loss(ids, teacher, 1 + h) - scaled.loss(ids, teacher, 1 - h)) / (2 * h)
            torch.testing.assert_close(found[e, f], change.abs(), rtol=1e-5, atol=1e-10)
            checked += bool(found[e, f] > 0)
        assert checked >= 4

    def test_removing_what_matters_least_changes_least(self) -> None:
        model, ids = a_model().double(), some_ids(6)
        found = expert_sensitivity(model, ids.split(1))
        opposite = {k: Sensitivity(-v.experts, v.shared) for k, v in found.items()}
        with torch.no_grad():
            want = model(ids)
            kept = [copy.deepcopy(model) for _ in range(2)]
            for other, scores in zip(kept, (found, opposite), strict=True):
                slim_experts(other, 32, scores)
            best, worst = (float(distillation_loss(other(ids), want, 40)) for other in kept)
        assert best < worst / 2

    def test_frozen_parameters_stay_frozen_and_no_batch_is_refused(self) -> None:
        model = a_model().requires_grad_(False)
        with torch.no_grad():
            assert expert_sensitivity(model, [some_ids()])["layers.0.moge"].experts.any()
        assert not any(p.requires_grad for p in model.parameters())
        with pytest.raises(ValueError, match="batches must have at least one batch, got none"):
            expert_sensitivity(model, [])
        assert not any(p.requires_grad for p in model.parameters())

    def test_heads_that_are_not_reached_have_no_scores(self) -> None:
        model = a_model(num_nextn_predict_layers=1)
        found = expert_sensitivity(model, [some_ids()])
        assert list(found) == ["layers.0.moge", "layers.1.moge"]
        with pytest.raises(ValueError, match=r"got none of 'mtp\.0\.layer\.moge'"):
            slim_experts(model, 32, found)


class TestSlim:
    def test_computes_what_it_would_with_zeros(self) -> None:
        layer, x = a_layer(), torch.randn(9, H, dtype=torch.float64)
        scores = Sensitivity(torch.rand(E, F), torch.rand(S))
        zeroed = copy.deepcopy(layer)
        with torch.no_grad():
            for e in range(E):
                for f in sorted(range(F), key=lambda f: float(scores.experts[e, f]))[:16]:
                    zeroed.w_down[e, :, f] = 0
            for f in sorted(range(S), key=lambda f: float(scores.shared[f]))[:16]:
                zeroed.shared_down[:, f] = 0
        wide = copy.deepcopy(layer)
        slim_experts(layer, 32, {"": scores}, shared_width=16)
        assert list(layer.w_gate_up.shape) == [E, 64, H]
        assert list(layer.w_down.shape) == [E, H, 32]
        assert list(layer.shared_gate_up.shape) == [32, H]
        assert list(layer.shared_down.shape) == [H, 16]
        torch.testing.assert_close(layer(x), zeroed(x))
        layer(x).sum().backward()
        assert layer.gate.equal(wide.gate)
        slim_experts(wide, 32, {"": scores})
        assert list(wide.shared_down.shape) == [H, S]

    def test_ties_and_order(self) -> None:
        layer = a_layer()
        before = copy.deepcopy(layer)
        scores = torch.ones(E, F)
        scores[1, 40] = 2
        slim_experts(layer, 16, {"": Sensitivity(scores, None)})
        assert layer.w_down[0].equal(before.w_down[0, :, :16])
        assert layer.w_down[1].equal(before.w_down[1][:, [*range(15), 40]])
        rows = [*range(15), 40]
        up = before.w_gate_up[1][[*rows, *(F + f for f in rows)]]
        assert layer.w_gate_up[1].equal(up)

    def test_the_present_width_changes_nothing(self) -> None:
        layer = MoGE(8, 10, 4, 2)  # no multiple of 16, and none is asked of what is there
        before = layer.w_down
        slim_experts(layer, 10, {"": Sensitivity(torch.rand(4, 10), None)})
        assert layer.w_down is before

    @pytest.mark.parametrize("width", [0, -16, 24, 33, 64])
    def test_refuses_a_cut_tile(self, width: int) -> None:
        said = f"width must be a multiple of 16, so that no tile is cut, .* 48, got {width}"
        layer = a_layer()
        with pytest.raises(ValueError, match=said):
            slim_experts(layer, width, {"": Sensitivity(torch.rand(E, F), None)})
        assert layer.w_down.shape == (E, H, F)

    def test_refuses_what_does_not_fit(self) -> None:
        layer, scores = a_layer(), torch.rand(E, F)
        with pytest.raises(TypeError, match="width must be an int, got float"):
            slim_experts(layer, 32.0, {"": Sensitivity(scores, None)})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"sensitivity\[''\] must be a Sensitivity, got Tensor"):
            slim_experts(layer, 32, {"": scores})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match=r"sensitivity.experts of the layer must be \[E, F\]"):
            slim_experts(layer, 32, {"": Sensitivity(scores[1:], None)})
        with pytest.raises(
            TypeError, match=r"sensitivity must be a Mapping whose keys .* NoneType"
        ):
            slim_experts(layer, 32, None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must be finite"):
            slim_experts(layer, 32, {"": Sensitivity(scores / 0, None)})
        with pytest.raises(TypeError, match=r"sensitivity.shared of the layer must be a Tensor"):
            slim_experts(layer, 32, {"": Sensitivity(scores, None)}, shared_width=16)
        with pytest.raises(ValueError, match="shared_width must be a multiple of 16"):
            slim_experts(layer, 32, {"": Sensitivity(scores, torch.rand(S))}, shared_width=8)
        bare = MoGE(H, F, E, G)
        with pytest.raises(ValueError, match="shared_width must be None, as the layer has"):
            slim_experts(bare, 32, {"": Sensitivity(scores, None)}, shared_width=16)
        quantize_experts(bare, "int8_w8a8")
        with pytest.raises(ValueError, match=r"^the layer must have plain .* slim first, then q"):
            slim_experts(bare, 32, {"": Sensitivity(scores, None)})
