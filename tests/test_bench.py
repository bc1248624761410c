"""The benches run, at toy size and without their peers (that of sweeps is in test_sweep.py); what they print at full size is no claim of a test."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCH = Path(__file__).parent.parent / "bench"


def run_here(tmp_path, monkeypatch, script: str, *arguments: str) -> dict:
    """What a bench writes. It runs in this process, where torch is imported already."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))
    monkeypatch.setattr("sys.argv", [script, *arguments])
    runpy.run_path(str(BENCH / script), run_name="__main__")
    (result,) = tmp_path.glob("*.json")
    return json.loads(result.read_text())


def test_the_memory_of_the_fused_objective_is_measured(tmp_path, monkeypatch):
    result = run_here(tmp_path, monkeypatch, "memory.py", "--vocabulary", "3000", "--hidden", "16", "--tokens", "64")
    (point,) = result["points"]
    assert point["tokens"] == 64 and point["fused_gb"] >= 0 and point["whole_gb"] >= 0


def test_the_gain_of_shared_prefixes_is_measured(tmp_path, tiny_model, monkeypatch):
    arguments = ("--model", tiny_model, "--rows", "8", "--length", "20", "--repeats", "1")
    result = run_here(tmp_path, monkeypatch, "shared_prefix.py", *arguments)
    shares = {row["shared_percent"]: row["distinct"] / row["tokens"] for row in result["by_share"]}
    assert shares[0] > shares[50] > shares[90] and len(result["by_solutions"]) == 4
    alone, three = (row["distinct"] / row["tokens"] for row in result["by_turns"])
    assert three < alone


def test_both_ways_to_generate_are_measured_and_say_the_same(tmp_path, tiny_model, monkeypatch):
    result = run_here(tmp_path, monkeypatch, "generate_gpu.py", "--toy", "--model", tiny_model, "--device", "cpu")
    assert result["equal_texts_float32"] == {"fixed shapes": 1.0, "captured": None}
    assert result["captured_over_growing"] is None and result["fixed_shapes_over_growing"] > 0


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_is_opened_at_toy_size(tmp_path, monkeypatch):
    result = run_here(tmp_path, monkeypatch, "report.py", "--problems", "20", "--evaluations", "2", "--rounds", "1")
    assert result["pages"] == 1 and 0 < result["seconds_browsing"] <= result["seconds_curves"]


def test_settings_run_and_what_fails_is_told_at_toy_size(tmp_path, tiny_model, monkeypatch):
    arguments = ("--model", tiny_model, "--device", "cpu", "--steps", "2", "--out", str(tmp_path / "runs"), "--only", "default", "small packs", "offload")
    found = run_here(tmp_path, monkeypatch, "settings.py", *arguments)["settings"]
    assert len(found["default"]["losses"]) == 2 and found["default"]["evaluations"] == 2
    assert found["small packs"]["losses"] == pytest.approx(found["default"]["losses"], abs=1e-3)
    assert "activations on a CPU are in the host's memory already" in found["offload"]["failed"]
