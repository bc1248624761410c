"""The same jobs here, in other processes, and on a Ray cluster of two workers."""

from __future__ import annotations

import importlib.util
import json
import os
from itertools import islice
from pathlib import Path

import pytest

from tutelage.cli.entry import main
from tutelage.errors import InputError, RunError
from tutelage.machines.fanout import run_apart, run_map

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def square(number: int) -> tuple[int, int]:
    if number < 0:
        raise RunError(f"{number} is negative")
    return number * number, os.getpid()


@pytest.mark.slow
def test_jobs_run_in_other_processes_and_answers_come_in_order():
    """What a job raises is raised in its turn, after the answers of the jobs before it."""
    answers = run_map(square, [*range(5), -1, 2], workers=2)
    first = list(islice(answers, 5))
    assert [value for value, _ in first] == [0, 1, 4, 9, 16] and os.getpid() not in {pid for _, pid in first}
    with pytest.raises(RunError, match="-1 is negative"):
        next(answers)


def test_where_is_checked_before_anything_runs(monkeypatch, tmp_path):
    with pytest.raises(InputError, match='write "local", "ray"'):
        list(run_map(square, [1], "moon"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tutelage\[ray\]"):
        list(run_map(square, [1], "ray"))
    assert main(["filter", "arithmetic", "--out", str(tmp_path / "kept.jsonl"), "--where", "ray"]) == 2


@needs_ray
@pytest.mark.slow
def test_two_ray_workers_answer_grade_and_evaluate_as_this_machine_does(tiny_model, data_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    import ray

    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        answers = list(run_map(square, range(4), "ray"))
        assert [value for value, _ in answers] == [0, 1, 4, 9] and os.getpid() not in {pid for _, pid in answers}
        with pytest.raises(RunError, match="^-1 is negative$"):
            list(run_map(square, [1, -1], "ray"))

        apart = dict(run_apart(square, iter([2, -1, 3]), "ray", gpus_per_job=1))  # the cluster has no GPU: none is asked for
        assert apart[0][0] == 4 and apart[2][0] == 9 and str(apart[1]) == "-1 is negative"

        for where in ("local", "ray"):
            assert main(["filter", str(data_file), "--out", str(tmp_path / f"{where}.jsonl"), "--where", where]) == 0
        assert (tmp_path / "local.jsonl").read_bytes() == (tmp_path / "ray.jsonl").read_bytes()
        assert (tmp_path / "local.ledger.jsonl").read_bytes() == (tmp_path / "ray.ledger.jsonl").read_bytes()

        asked = f"eval {tiny_model} {data_file} --backend native --eval.examples 7 --eval.max_new_tokens 6 --model.device cpu"
        sampled = "--eval.temperature 1.0 --eval.samples 2 --data.prompt plain --model.precision fp32"
        for where in ("local", "ray"):
            out = str(tmp_path / f"eval-{where}")
            assert main([*asked.split(), *sampled.split(), "--out", out, "--where", where]) == 0
        one, many = (
            [json.loads(line) for line in (tmp_path / f"eval-{where}" / "generations.jsonl").read_text().splitlines()]
            for where in ("local", "ray")
        )
        assert [record["response"] for record in one] == [record["response"] for record in many] and len(one) == 14
    finally:
        ray.shutdown()
