"""The benches run, at toy size and without their peers (that of sweeps is in test_sweep.py); what they print at full size is no claim of a test."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import time
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
    result = run_here(tmp_path, monkeypatch, "memory.py", "--vocabulary", "3000", "--hidden", "16", "--tokens", "1024")
    (point,) = result["points"]
    assert point["tokens"] == 1024 and point["fused_gb"] > 0 and point["whole_gb"] > 0


def test_the_ladder_of_settings_is_measured_beside_what_was_predicted(tmp_path, monkeypatch):
    for name in ("LADDER_FOLDER", "MALLOC_MMAP_THRESHOLD_", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what the bench sets is taken back
    result = run_here(tmp_path, monkeypatch, "memory_ladder.py", "--only", "all kept", "--length", "64", "--seconds", "0")
    (rung,) = result["rungs"]
    assert rung["rung"] == "all kept" and rung["peak_gb"] > 0 and rung["predicted_gb"] > 0 and rung["tokens_per_second"] > 0


def test_the_table_of_sizes_and_cards_is_reckoned(tmp_path, monkeypatch):
    result = run_here(tmp_path, monkeypatch, "plan_sizes.py", "--sizes", "1.5B", "--most", "1", "--length", "64")
    assert [row["cards"] for row in result["table"]] == ["1 × rtx4090", "1 × h100", "1 × h200"]
    assert all(row["gib"] > 0 and row["step_network"] is None for row in result["table"])


def test_the_gain_of_shared_prefixes_is_measured(tmp_path, tiny_model, monkeypatch):
    arguments = ("--model", tiny_model, "--rows", "8", "--length", "20", "--repeats", "1")
    result = run_here(tmp_path, monkeypatch, "shared_prefix.py", *arguments)
    shares = {row["shared_percent"]: row["distinct"] / row["tokens"] for row in result["by_share"]}
    assert shares[0] > shares[50] > shares[90] and len(result["by_solutions"]) == 4
    alone, three = (row["distinct"] / row["tokens"] for row in result["by_turns"])
    assert three < alone


def test_both_ways_to_generate_are_measured_and_say_the_same(tmp_path, tiny_model, monkeypatch):
    result = run_here(tmp_path, monkeypatch, "captured.py", "--toy", "--model", tiny_model, "--device", "cpu")
    assert result["equal_texts_float32"] == {"fixed shapes": 1.0, "captured": None}
    assert result["captured_over_growing"] is None and result["fixed_shapes_over_growing"] > 0


def test_an_engine_beside_training_is_measured_by_its_parts(tmp_path, tiny_model, monkeypatch):
    """On a CPU nothing sleeps, and in turns is said to be left out."""
    monkeypatch.setenv("TOY", "1")
    result = run_here(tmp_path, monkeypatch, "generate_gpu.py", "--model", tiny_model, "--backend", "fake")
    assert set(result["left_out"]) == {"engine in_turns", "train in_turns"}
    for key in ("vllm_over_native", "sync_seconds", "sync_max_gap", "eval_share_of_training_time"):
        assert list(result[key]) == ["beside", "in_turns"] and result[key]["beside"] >= 0 and result[key]["in_turns"] is None
    trained, evaluated = result["parts"]["train beside"], result["parts"]["eval"]
    assert trained["finished"] and trained["evaluated"] == [0, 2, 4] and len(trained["certificates"]) == 3 and not trained["failures"]
    assert evaluated["examples"] == 4 and evaluated["certificates"][0]["dtype"] == "bfloat16"


def test_a_part_that_takes_too_long_is_ended_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import generate_gpu

    child = "import os, subprocess, sys; other = subprocess.Popen(['sleep', '600']); print(other.pid, flush=True); other.wait()"
    lines = generate_gpu.lines_of([sys.executable, "-c", child], 10.0, tmp_path / "log")
    pid = int(next(lines))
    with pytest.raises(SystemExit, match="not done after 10 s"):
        list(lines)
    state = Path(f"/proc/{pid}/stat")
    for _ in range(200):  # it is dead as soon as the machine gets to it
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("what the part has started goes on")
    with pytest.raises(SystemExit, match="exit code 1: .*no_such_thing"):
        list(generate_gpu.lines_of([sys.executable, "-c", "no_such_thing"], 60.0, tmp_path / "log"))


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


def test_faults_are_tried_and_judged_at_toy_size(tmp_path):
    """In a process of its own, for the bench forks what has imported all and run nothing."""
    command = [sys.executable, str(BENCH / "faults.py"), "--only", "usage", "bit_flips", "--most", "2"]
    done = subprocess.run(command, env={**os.environ, "BENCH_RESULTS": str(tmp_path)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "faults.json").read_text())
    assert (found["tried"], found["held"], found["did_not_hold"]) == (4, 4, [])
    assert list(found["by_kind"]) == ["usage", "bit_flips"] and not found["left_out"]


def test_the_judge_of_faults_sees_what_does_not_hold(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    from fault_lab import Done, judge

    assert judge(Done(2, "tutelage: train.lr: must be above 0"), (2,), named="lr") == ""
    assert "traceback" in judge(Done(1, "Traceback (most recent call last):\nValueError: x"), (1,))
    assert "did not end" in judge(Done(None, ""), (0,))
    assert "exit code 0" in judge(Done(0, "wrote it"), (2,))
    assert "without a message" in judge(Done(2, "something"), (2,))
    assert "not named" in judge(Done(2, "tutelage: no"), (2,), named="lr")


def test_two_losses_are_compared_by_a_sweep_that_goes_on(tmp_path, tiny_model, monkeypatch):
    settings = ("--model.id", tiny_model, "--model.device", "cpu", "--model.precision", "fp32", "--eval.max_new_tokens", "4")
    arguments = ("--out", str(tmp_path / "sweeps"), "--tasks", "arithmetic", "--problems", "4", "--seeds", "1")
    result = run_here(tmp_path, monkeypatch, "losses.py", *arguments, *settings, "--train.batch_size", "256")["arithmetic"]
    assert result["problems"] == 4 and set(result["losses"]) == {"nll", "dft"} and not result["failures"]
    assert [row["train.loss"] for row in result["trials"]] == ["nll", "dft"] and len(result["says"]) == 3
    assert result["dft_against_nll"]["questions"] == 4 and result["sessions"] == 1
