"""What the GPU bench makes of what it measures, and how it measures: without a card, and at toy size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(autouse=True)
def bench_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.mark.slow
def test_the_gpu_bench_runs_on_a_cpu_at_toy_size(tmp_path):
    command = [sys.executable, str(BENCH / "train_gpu.py"), "--toy", "--compile", "off", "--only", "equal", "real", "shared_8", "profile", "capped"]
    done = subprocess.run(command, env={**os.environ, "BENCH_RESULTS": str(tmp_path)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "train_gpu_toy.json").read_text())
    turns = {(turn["part"], turn["side"]): turn for turn in result["turns"]}
    assert not [turn["failed"] for turn in turns.values() if "failed" in turn]
    ours = [turns[part, "ours"] for part in ("equal", "real", "shared_8")] + [turns["capped", "ours, capped"]]
    assert all(turn["tokens_per_second"] > 0 and turn["predicted_gb"] >= 0 and turn["since_start"] > turn["first_step_seconds"] for turn in ours)
    assert ours[2]["distinct_share"] < 0.6 and turns["capped", "ours, capped"]["distinct_share"] == 1.0
    assert turns["profile", "ours"]["by_kind_ms"]["products"] > 0
    assert result["mfu"] > 0 and result["busy_share"] is None and result["ratio_shared"] is None


def test_kinds_of_rows_share_what_their_names_say():
    from gpu_rows import SIZES, rows_of

    size = SIZES[False]
    for kind, solutions, times in (("shared", 4, 1), ("shared_8", 8, 2)):
        rows = rows_of(kind, size, 1000, 1)
        assert len(rows) == size.rows and all(len(row) == size.length for row in rows)
        assert len({row.prompt_ids for row in rows}) == size.rows // solutions
        assert len(rows[0].prompt_ids) == pytest.approx(times * len(rows[0].response_ids), rel=0.01)
    equal, real = rows_of("equal", size, 1000, 1), rows_of("real", size, 1000, 4)
    assert {len(row) for row in equal} == {size.length} and len({row.prompt_ids for row in equal}) == size.rows
    assert len({row.prompt_ids[: size.template] for row in [*equal[:1], *real]}) == 1
    lengths = sorted(map(len, real))
    assert len(real) == 4 * 48 and lengths[0] >= size.shortest and lengths[-1] <= size.longest
    assert lengths[len(lengths) // 2] == pytest.approx(size.median, rel=0.2)


def test_kernels_of_a_trace_are_told_apart_and_overlaps_count_once():
    from gpu_profile import kernels_in, summary

    def event(category, name, start, duration):
        return {"cat": category, "name": name, "ts": start, "dur": duration}

    kernels = kernels_in(
        [
            event("gpu_user_annotation", "head", 100, 50),
            event("gpu_user_annotation", "Optimizer.step#AdamW.step", 300, 50),
            event("gpu_user_annotation", "something else", 0, 1000),
            event("kernel", "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN", 0, 40),
            event("kernel", "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN", 110, 40),
            event("kernel", "void flash::flash_fwd_kernel<…>", 20, 40),
            event("kernel", "triton_poi_fused__to_copy_mul_silu_3", 200, 10),
            event("kernel", "triton_poi_fused_mul_silu_3", 310, 10),
            event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 400, 10),
            event("cpu_op", "aten::mm", 0, 900),
            {"ph": "M", "name": "process_name"},
        ]
    )
    found = summary(kernels, 320e-6, on_card=True)
    assert found["by_kind_ms"] == {"products": 0.04, "head": 0.04, "attention": 0.04, "element-wise": 0.01, "optimizer": 0.01, "copies and casts": 0.01}
    assert found["busy_share"] == pytest.approx(130 / 320, abs=1e-4)  # 0–60, 110–150, 200–210, 310–320, 400–410
    assert found["largest"][0] == {"kernel": "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN", "ms": 0.08, "calls": 2}
    assert summary(kernels, 320e-6, on_card=False)["busy_share"] is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("attention", "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<cute::Copy_Atom<…>>>>"),
        ("attention", "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_1"),
        ("attention", "triton_tem_fused_flex_attention_backward_2"),
        ("products", "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64"),
        ("copies and casts", "void at::native::multi_tensor_apply_kernel<…, at::native::CopyFunctor<float, c10::BFloat16>>"),
        ("copies and casts", "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>"),
        ("optimizer", "void at::native::multi_tensor_apply_kernel<…, at::native::LpNormFunctor<float>>"),
        ("gathers", "void at::native::indexFuncLargeIndex<float, long, unsigned int>"),
        ("element-wise", "void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel>"),
        ("other", "ncclDevKernel_AllReduce"),
    ],
)
def test_a_kernel_is_known_by_its_name(kind, name):
    from gpu_profile import Kernel

    assert Kernel(name, 0.0, 1.0).kind == kind


def test_figures_are_ratios_to_the_better_padded_side_and_null_if_unmeasured():
    from train_gpu import summed_up

    def turn(part, side, speed, reserved=10.0):
        return {"part": part, "side": side, "tokens_per_second": speed, "peak_reserved_gb": reserved, "matrix_rate": 6e3}

    turns = [turn("equal", "ours", 30, 9.0), turn("equal", "TRL", 10), turn("equal", "TRL + Liger", 20, 12.0)]
    turns += [turn("real", "ours", 30), turn("real", "TRL + Liger, packed", 25), {"part": "real", "side": "TRL", "failed": "no memory"}]
    figures = summed_up({"weights": 10, "turns": [*turns, turn("shared", "TRL", 5)]})
    assert figures["ratio_equal"] == 1.5 and figures["peak_memory_ratio"] == 0.75 and figures["mfu"] == 0.3
    assert figures["ratio_real_packed"] == 1.2
    assert [figures[name] for name in ("ratio_real", "ratio_shared", "ratio_shared_8", "busy_share")] == [None] * 4


def test_sides_take_turns_to_be_first_and_parts_can_be_chosen():
    from train_gpu import PARTS, requests_of

    names = ["ours", "TRL", "TRL + Liger", "TRL + Liger, packed"]
    requests = list(requests_of(list(PARTS), names))
    firsts = [next(name for part, name in requests if part == kind) for kind in ("equal", "real", "shared", "shared_8")]
    assert firsts == ["ours", "TRL", "TRL + Liger", "ours"]
    assert [part for part, name in requests if "packed" in name] == ["real"]
    assert list(requests_of(["capped"], names)) == [("capped", "ours, capped")]


@pytest.mark.slow
def test_a_side_that_does_not_answer_in_time_leaves_what_it_found(tmp_path):
    from train_gpu import Side

    side = Side("ours", str(tmp_path), Namespace(cap=24.0, compile="on", toy=True))
    hangs = "import time; print('RESULT {\"first\": 1}', flush=True); time.sleep(60)"
    side._command = [sys.executable, "-c", hangs]
    assert list(side.ask("equal", 3)) == [{"first": 1}, {"failed": "not done after 3 s, and ended"}]
    side._command = [sys.executable, "-c", "input(); raise SystemExit('no card')"]
    assert list(side.ask("equal", 30)) == [{"failed": "the process ended: no card"}]


def test_the_readme_names_each_file_with_tests_that_need_a_card():
    here = Path(__file__).parent
    needs = re.compile(r"skipif\(not torch\.cuda|needs_gpu|needs_card")
    told = (here.parent / "bench/README.md").read_text(encoding="utf-8")
    files = [path.name for path in here.glob("test_*.py") if path.name != Path(__file__).name and needs.search(path.read_text(encoding="utf-8"))]
    assert len(files) >= 5 and [name for name in files if f"tests/{name}" not in told] == []


def test_the_first_part_of_a_process_has_time_to_load_and_compile(tmp_path):
    from train_gpu import SET_UP, Side

    side = Side("ours", str(tmp_path), Namespace(cap=24.0, compile="on", toy=True))
    first = side.limit_of("shared")
    side.process, side.is_set_up = Namespace(poll=lambda: None), True
    assert side.limit_of("shared") == first - SET_UP
    side.process = Namespace(poll=lambda: -9)  # it was ended: the next one loads anew
    assert side.limit_of("shared") == first
