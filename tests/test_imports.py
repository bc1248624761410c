"""Imports run downward only, and light rooms stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage

SOURCE = Path(tutelage.__file__).parent

# from the bottom to the top: a room may import rooms of lower levels only
LEVELS = [
    {"errors", "stats", "arithmetic", "machine", "guard"},
    {"overrides", "grading", "sources", "console", "objective", "attention", "sharding", "fanout", "launch"},
    {"world"},
    {"config", "shapes", "embedded", "checkpoint"},
    {"data", "lora", "optim", "trials", "tracking", "init"},
    {"tokens", "runlog", "generation"},
    {"packing", "draft", "readings"},
    {"results", "compare"},
    {"report"},
    {"policy"},
    {"model", "speed", "memory", "certificate"},
    {"step", "devices", "trace"},
    {"engines"},
    {"plan", "prepare", "evaluate"},
    {"placement", "show", "course"},
    {"live", "oom"},
    {"train", "filtering", "inference", "export", "replay", "forecast"},
    {"demo", "sweep", "planner", "check"},
    {"advice"},
    {"commands"},
    {"cli"},
]


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def files() -> list[tuple[str, Path]]:
    return [(path.relative_to(SOURCE).with_suffix("").parts[0], path) for path in sorted(SOURCE.rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tutelage"):
            rooms |= {alias.name for alias in node.names} if node.module == "tutelage" else {room_of(node.module)}
        elif isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names if alias.name.startswith("tutelage.")}
    return rooms


def test_imports_run_downward_only():
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    for room, path in files():
        if room in ("__init__", "__main__"):
            continue
        for other in imported_rooms(path) - {room}:
            assert level[other] < level[room], f"{path.relative_to(SOURCE)} imports {other}, which does not lie below {room}"


def test_generation_knows_neither_grading_nor_training():
    for room, path in files():
        if room == "generation":
            assert imported_rooms(path) <= {"generation", "objective", "errors", "lora", "machine", "sharding"}


def test_only_one_file_knows_vllm():
    knows = [
        path.relative_to(SOURCE).as_posix()
        for _, path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "vllm")
        or (isinstance(node, ast.Import) and any(a.name == "vllm" for a in node.names))
    ]
    assert set(knows) == {"generation/vllm.py"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("tutelage", ("torch", "transformers", "datasets", "pydantic", "sympy", "rich")),
        ("tutelage.data", ("torch", "transformers", "vllm", "datasets", "sympy")),
        ("tutelage.grading", ("torch", "transformers", "vllm", "sympy", "math_verify", "pydantic")),
        ("tutelage.stats", ("torch", "transformers", "vllm", "numpy")),
        ("tutelage.config", ("torch", "transformers")),
        ("tutelage.report", ("torch", "transformers", "plotly", "pyarrow", "sympy")),
        ("tutelage.compare", ("torch", "transformers", "sympy")),
        ("tutelage.filtering", ("torch", "transformers", "datasets", "sympy")),
        ("tutelage.objective", ("transformers", "vllm", "datasets")),
        ("tutelage.train", ("vllm", "datasets", "wandb", "trackio", "mlflow")),
    ],
)
def test_a_light_room_loads_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print([name for name in {forbidden!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_every_public_name_is_there_and_listed():
    from tutelage import _HOMES, __all__

    assert sorted(__all__) == sorted(_HOMES)
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
        "sft_microbatch_train_step": [
            "policy_log_probs",
            "response_mask",
            "gradient_accumulation_steps",
            "normalize_constant",
        ],
        "log_generations": ["model", "tokenizer", "prompts", "ground_truths", "reward_fn"],
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
        "load_data": ["subset", "seed", "test_size"],
        "build_text_pairs": ["example"],
        "filter_correct_dataset": ["ds", "seed"],
        "train_one_size": ["config", "size"],
        "r1_zero_reward_fn": ["response", "ground_truth"],
    }
    for name, expected in signatures.items():
        assert list(inspect.signature(getattr(tutelage, name)).parameters)[: len(expected)] == expected, name
