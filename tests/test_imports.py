"""One rule for imports, and light folders stay light."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage

SOURCE = Path(tutelage.__file__).parent

ORDER = """
errors · console · stats < config < machines, grading < data < model, runs < resources, report < evaluation < training
< check, advice < experiments < cli
"""
"""A folder imports only folders that stand before it, and of those only what their ``__init__`` names; equals never import
each other."""


def stages() -> dict[str, int]:
    """The place of each folder (or file of the root) in the order. Those of the first stage may import each other."""
    return {
        name.strip(): stage for stage, names in enumerate(ORDER.split("<")) for name in re.split("[,·]", names)
    }


def folder_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


@functools.cache
def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import of this package in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tutelage":
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "tutelage"]
    return found


def files() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE or path.stem in stages()]


def crossings() -> list[tuple[Path, str, str, str]]:
    """(file, folder, module, name) of every import of another folder."""
    found = []
    for path in files():
        for module, name in imports(path):
            other = module.split(".")[1] if "." in module else name
            if other not in (folder_of(path), "_lazy"):
                found.append((path.relative_to(SOURCE), other, module, name))
    return found


def test_a_folder_imports_only_folders_before_it():
    stage = stages()
    for path, other, *_ in crossings():
        mine = folder_of(SOURCE / path)
        assert stage[other] < stage[mine] or stage[mine] == 0, f"{path} imports {other}, which does not stand before {mine}"


def test_folders_are_imported_through_what_their_init_names():
    for path, other, module, name in crossings():
        if (SOURCE / other).is_dir():
            assert module == f"tutelage.{other}", f"{path} reaches into {module}"
            assert name in importlib.import_module(module).__all__, f"{path}: {module} does not offer {name}"


def test_an_offered_name_is_never_hidden_by_a_file_of_that_name():
    for path in SOURCE.rglob("__init__.py"):
        package = ".".join(("tutelage", *path.parent.relative_to(SOURCE).parts))
        files = {file.stem for file in path.parent.glob("*.py")}
        for module, name in imports(path):
            assert module in (package, "tutelage._lazy") or name not in files, f"{package}.{name} is a file, too"


def test_engines_know_neither_grading_nor_training():
    for path, other, *_ in crossings():
        if path.parts[:2] == ("evaluation", "engine"):
            assert other in {"config", "console", "data", "model", "errors", "machines", "resources"}, f"{path} imports {other}"


def test_only_one_file_knows_vllm():
    knows = {
        path.relative_to(SOURCE).as_posix() for path in files() if re.search(r"^\s*(from|import) vllm\b", path.read_text(), re.M)
    }
    assert knows == {"evaluation/engine/vllm.py"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("tutelage", ("torch", "transformers", "datasets", "pydantic", "sympy", "rich")),
        ("tutelage.data.filter", ("torch", "transformers", "vllm", "datasets", "sympy")),
        ("tutelage.grading.rewards", ("torch", "transformers", "vllm", "numpy", "sympy", "mpmath", "math_verify", "pydantic")),
        ("tutelage.grading.rewards", ("tutelage.config", "tutelage.machines", "tutelage.data", "tutelage.model", "tutelage.training")),
        ("tutelage.grading.serving.worker", ("torch", "numpy", "sympy", "math_verify", "subprocess", "tutelage.errors", "importlib.metadata")),
        ("tutelage.cli.grade", ("torch", "transformers", "datasets", "sympy", "pydantic")),
        ("tutelage.stats", ("torch", "transformers", "vllm", "numpy")),
        ("tutelage.config", ("torch", "transformers")),
        ("tutelage.report.page", ("torch", "transformers", "plotly", "pyarrow", "sympy")),
        ("tutelage.runs.compare", ("torch", "transformers", "sympy")),
        ("tutelage.cli.filter", ("torch", "transformers", "datasets", "sympy")),
        ("tutelage.model.specification", ("transformers", "vllm", "datasets")),
        ("tutelage.training.loop", ("vllm", "datasets", "wandb", "trackio", "mlflow")),
    ],
)
@pytest.mark.slow
def test_a_light_folder_loads_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print([name for name in {forbidden!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_every_public_name_is_there_and_listed():
    from tutelage import __all__

    for name in __all__:
        assert getattr(tutelage, name).__doc__
    assert set(dir(tutelage)) == set(__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        tutelage.no_such_name  # noqa: B018


def test_the_specifications_functions_have_its_arguments():
    import inspect

    signatures = {
        "tokenize_prompt_and_output": ["prompt_strs", "output_strs", "tokenizer", "max_length"],
        "compute_entropy": ["logits"],
        "get_response_log_probs": ["model", "input_ids", "labels", "return_token_entropy", "with_grad"],
        "masked_normalize": ["tensor", "mask", "normalize_constant", "dim"],
        "masked_mean": ["tensor", "mask", "dim"],
        "sft_microbatch_train_step": [
            "policy_log_probs",
            "response_mask",
            "gradient_accumulation_steps",
            "normalize_constant",
        ],
        "log_generations": [
            "model",
            "tokenizer",
            "prompts",
            "ground_truths",
            "reward_fn",
            "max_new_tokens",
            "temperature",
            "top_p",
            "device",
        ],
        "log_generations_vllm": [
            "vllm_model",
            "prompts",
            "ground_truths",
            "reward_fn",
            "sampling_params",
            "batch_size",
        ],
        "init_vllm": ["model_id", "device", "seed", "gpu_memory_utilization"],
        "load_policy_into_vllm_instance": ["policy", "llm"],
        "load_data": ["subset", "seed", "test_size", "source"],
        "build_text_pairs": ["example"],
        "filter_correct_dataset": ["ds", "seed"],
        "train_one_size": ["subset", "filtered", "config"],
        "r1_zero_reward_fn": ["response", "ground_truth", "fast"],
        "reward_fn_response_vs_gt": ["response", "ground_truth"],
    }
    for name, expected in signatures.items():
        assert list(inspect.signature(getattr(tutelage, name)).parameters)[: len(expected)] == expected, name
