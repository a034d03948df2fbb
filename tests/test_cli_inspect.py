"""`moge-ops inspect`."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import PSALM, columns, run, small_model
from safetensors.torch import load_file

from moge_ops.cli import _inspect, _windows, main
from moge_ops.models import PanguMoEConfig
from moge_ops.models.checkpoint import from_pretrained, save_pretrained
from moge_ops.models.layout import parameter_counts
from moge_ops.models.tokenizer import write_byte_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra 'models'")


@pytest.fixture(params=["rich", "plain"])
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    else:
        pytest.importorskip("rich")


class TestInspect:
    @pytest.mark.usefixtures("tables")
    def test_the_released_model_from_its_config_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "config.json").write_text(json.dumps(PanguMoEConfig().to_dict()))
        monkeypatch.setattr(_inspect, "available", lambda device: 145 * 10**9)
        out, _ = run("inspect", tmp_path, capsys=capsys)
        found = columns(out)
        assert found["parameters"] == ["71,988,781,056"]
        assert found["active for a token"] == ["16,498,139,136"]
        assert found["experts E"] == ["64"]
        assert found["experts of a token K, each group's share"] == ["8, 1"]
        assert found["float32"] == ["287.955", "0.393", "no", "0"]
        # 48 layers of keys and values, 8 heads of 128: 196608 bytes a token
        fits = (145 * 10**9 - 2 * 71_988_781_056) // 196608
        assert found["bfloat16"] == ["143.978", "0.197", "yes", f"{fits:,}"]
        assert f"{tmp_path} has no weights" in out

    @pytest.mark.usefixtures("tables")
    def test_routers_over_a_text(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(1)
        model = small_model()
        with torch.no_grad():
            model.layers[0].moge.gate[1] = model.layers[0].moge.gate[0]  # a tie goes to the first
        save_pretrained(model, tmp_path)
        tokenizer = write_byte_tokenizer(tmp_path)
        (tmp_path / "text.txt").write_text(PSALM * 3)
        # the model has 64 positions, so windows are of 64 tokens; the text is cut to 100
        out, _ = run(
            *("inspect", tmp_path, "--text", tmp_path / "text.txt", "--max-tokens", 100),
            capsys=capsys,
        )
        stats, _, grid = out.partition("Tokens of every expert")
        found = columns(stats)
        assert found["F32"][0] == str(len(load_file(tmp_path / "model.safetensors")))
        assert "Routers over 100 tokens" in out

        ids, model = tokenizer.raw(PSALM * 3)[:100], from_pretrained(tmp_path)
        details = [model(torch.tensor([w]), return_details=True) for w in (ids[:64], ids[64:])]
        every = torch.zeros(12, dtype=torch.int64)
        for layer in range(2):
            counts = sum(torch.as_tensor(d.gating[layer].counts.long()) for d in details)
            every += counts
            logits = torch.cat([d.router_logits[layer] for d in details])
            loads = torch.bincount(logits.topk(4).indices.flatten() // 3, minlength=4)
            score = float(loads.max() - loads.min()) / 100
            assert found[str(layer)][0] == "100"
            least, _, most, unused = found[str(layer)][1:5]
            assert (int(least), int(most)) == (counts.min(), counts.max())
            assert int(unused) == int((counts == 0).sum()) >= 1 - layer
            assert found[str(layer)][5:] == ["0.000", f"{score:.3f}"]
            assert score > 0
        lines = [line for line in grid.splitlines() if re.match(r"[│ ]*[0-3]\s", line)]
        numbers = [[int(n) for n in re.findall(r"\d+", line)] for line in lines]
        assert numbers == [[g, *row] for g, row in enumerate(every.view(4, 3).tolist())]

    def test_what_the_files_hold(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        total = from_pretrained(tiny).parameter_counts()[0]
        tensors = len(load_file(tiny / "model.safetensors"))
        found = columns(run("inspect", tiny, capsys=capsys)[0])
        assert found["BF16"] == [str(tensors), f"{total:,}"]
        assert "0" not in found  # no text, no routers

    def test_where_the_system_says_nothing_of_memory(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_inspect, "available", lambda device: None)
        out, _ = run("inspect", tiny, "--prompt", PSALM, capsys=capsys)
        assert "unknown available" in out
        assert len(columns(out)["bfloat16"]) == 2

    def test_sizes_without_end_are_counted_at_once(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        huge = dict.fromkeys(("num_hidden_layers", "num_experts", "num_groups"), 2**31 - 1)
        config = {**PanguMoEConfig().to_dict(), **huge, "num_experts_per_tok": 2**31 - 1}
        (tmp_path / "config.json").write_text(json.dumps(config))
        before = time.perf_counter()
        out, _ = run("inspect", tmp_path, capsys=capsys)
        assert columns(out)["experts E"] == ["2147483647"]
        assert time.perf_counter() - before < 1

    @pytest.mark.parametrize("changes", [{}, {"shared_expert_intermediate_size": 0}])
    def test_parameters_are_counted_without_a_model(self, changes: dict[str, int]) -> None:
        model = small_model(**changes)
        assert parameter_counts(model.config) == model.parameter_counts()

    def test_a_text_without_end(
        self, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_windows, "MOST_TEXT", 1000)
        with pytest.raises(SystemExit, match="2"):
            main(["inspect", str(tiny), "--text", "/dev/zero"])
        assert "/dev/zero must have at most 1,000 bytes" in capsys.readouterr().err
