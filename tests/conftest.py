"""What all tests share: the tiny model, a file of rows, a configuration for both, two ranks."""

from __future__ import annotations

import multiprocessing.util
import os
import shutil
import signal
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests run beside each other: more threads would take turns on the cores
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import hypothesis
import pytest
from tiny import make_tiny_model

from tutelage.data import arithmetic
from tutelage.runs.files import to_lines

# A shell ignores SIGINT for what it starts in the background, and a process hands that on to its children: tests of Ctrl-C,
# and the processes that they start, need the usual handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# a busy machine may take seconds for any example
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

LONGEST_FIRST = (
    "test_vllm", "test_preemption", "test_live", "test_grading_workers", "test_memory", "test_policy", "test_bench", "test_parallel",
    "test_end_to_end",
)  # fmt: skip
"""Files are handed to the workers in this order, then by name: a long one that came last would leave one worker idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tokenizer(tiny_model: str):
    from tutelage.model.load import load_tokenizer

    return load_tokenizer(tiny_model)


@pytest.fixture
def model(tiny_model: str):
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """48 rows of the built-in task, six of them wrong."""
    path = tmp_path / "train.jsonl"
    path.write_text(to_lines(arithmetic.rows("train", 48)), encoding="utf-8")
    return path


@pytest.fixture
def make_config(tiny_model: str, data_file: Path, tmp_path: Path):
    """A configuration for the tiny model; keyword arguments are ``section__key=value``."""
    from tutelage.config import parse_config

    def make(**changes):
        raw = {
            "model": {"id": tiny_model, "device": "cpu", "precision": "fp32"},
            "data": {"train": str(data_file), "prompt": "plain", "test_size": 0.2},
            "train": {"lr": 1e-3, "batch_size": 4, "grad_accum": 2, "num_steps": 4},
            "eval": {"every": 2, "examples": 4, "full": False, "max_new_tokens": 8, "backend": "native"},
            "parallel": {},
            "run": {"dir": str(tmp_path / "run")},
        }
        for key, value in changes.items():
            section, name = key.split("__")
            raw[section][name] = value
        return parse_config(raw)

    return make


@pytest.fixture(autouse=True, scope="session")
def temporary_files_of_these_tests(tmp_path_factory: pytest.TempPathFactory):
    """The tests and their processes have a folder of their own for temporary files. It is removed; nothing of ours may be left in it."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    multiprocessing.util.get_temp_dir()  # in the usual folder, too: multiprocessing removes it when this process ends
    tmp_path_factory.getbasetemp()  # stays in the usual folder, for who looks into a failure
    folder = Path(tempfile.mkdtemp(prefix="tests-"))  # a short name: sockets in it have paths of 100 characters at most
    with pytest.MonkeyPatch.context() as patch:
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # the next session need not compile again
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield
    left = [path.name for path in folder.iterdir() if "tutelage" in path.name]
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"tests, or what they tested, left temporary files behind: {sorted(left)}"


@pytest.fixture(autouse=True, scope="session")
def rows_of_these_tests(tmp_path_factory: pytest.TempPathFactory):
    """Rows in tokens are kept for these tests alone; equal rows of several tests are made once."""
    directory = tmp_path_factory.getbasetemp() / "rows"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tutelage.data.store.cache_directory", lambda: directory)
        yield


@pytest.fixture(autouse=True)
def verdicts_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test grades for itself: the verdicts of earlier runs stay where they are."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("tutelage.data.filter.cache_directory", lambda: directory)
    return directory


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with a head of its own."""
    return make_tiny_model(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="session")
def ranks():
    """Two ranks of a job, for the tests that want some."""
    from ranks import Ranks

    both = Ranks()
    yield both
    both.close()


@pytest.fixture(autouse=True)
def bfloat16_even_where_it_is_slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models compute in bfloat16 on every CPU, so that its paths are tested; the embedded one as a person's would."""
    if "tiny_model" in request.fixturenames:
        monkeypatch.setattr("tutelage.model.load.has_bfloat16", lambda device: True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """Say how the fake engine behaves (`eval.backend = "fake"`); "auto" takes it, too."""
    from tutelage.evaluation.engine import registry
    from tutelage.evaluation.engine.fake import VARIABLE

    monkeypatch.setattr(registry, "AUTO", "fake")
    monkeypatch.setenv(VARIABLE, "good")
    return lambda behaviour: monkeypatch.setenv(VARIABLE, behaviour)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, fake):
    """As `fake`, and the engine is an object of this process."""
    from inside import Inside

    from tutelage.evaluation.engine import handle

    monkeypatch.setattr(handle, "Remote", Inside)
    return fake
