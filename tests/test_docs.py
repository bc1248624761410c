"""The documentation: every command in it is run, or, where it needs what is not here, at least read; and the site is built.

Commands run with a tiny model in the place of theirs, and with short responses: ``--section.key`` settings at their end.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import tutelage
from tutelage.check import doctor
from tutelage.cli import main
from tutelage.cli.entry import build_parser
from tutelage.config import load_config, split_overrides
from tutelage.data import arithmetic
from tutelage.runs import to_lines
from tutelage.training import fine_tune

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [*PAGES, ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"(?:<!-- needs: (\w+) -->\s*\n)?[ ]*```sh\n(.*?)\n[ ]*```", re.DOTALL)
NEEDS = {"gpu", "hub", "cluster", "install"}
SMALLER = {
    name: ["--model.id", "{tiny}", "--model.precision", "fp32", "--data.prompt", "plain", "--eval.max_new_tokens", "8", "--eval.backend", "native"]
    for name in ("train", "check", "plan", "sweep", "improve")
} | {"eval": ["--eval.max_new_tokens", "8"], "sample": ["--eval.max_new_tokens", "8"], "ask": ["--eval.max_new_tokens", "8"]}  # fmt: skip


@dataclass(frozen=True)
class Command:
    page: str
    needs: str
    words: tuple[str, ...]


def commands_of(path: Path) -> list[Command]:
    found = []
    for block in BLOCK.finditer(path.read_text(encoding="utf-8")):
        for line in block[2].replace("\\\n", " ").splitlines():
            words = tuple(shlex.split(line, comments=True))
            if words:
                found.append(Command(path.relative_to(ROOT).as_posix(), block[1] or "", words))
    return found


COMMANDS = [command for page in PAGES for command in commands_of(page)]


def pages_that_run() -> list[str]:
    return list(dict.fromkeys(command.page for command in COMMANDS if not command.needs))


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_model) -> Path:
    """What a reader has at hand: recipes, two files, two finished runs. All pages share it."""
    directory = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "recipes", directory / "recipes")
    (directory / "solutions.jsonl").write_text(to_lines(_plainly("train", 40)))
    (directory / "problems.jsonl").write_text(to_lines(_plainly("validation", 10)))
    small = ["--model.id", tiny_model, "--model.precision", "fp32", "--model.device", "cpu", "--data.prompt", "plain"]
    small += ["--data.train", str(directory / "solutions.jsonl"), "--train.batch_size", "4", "--train.grad_accum", "2"]
    small += ["--eval.backend", "native", "--eval.max_new_tokens", "8", "--eval.examples", "4", "--train.num_steps", "3"]
    for name in ("first", "second"):
        fine_tune(load_config(None, [*small, "--run.dir", str(directory / "runs" / name)]))
    return directory


def _plainly(part, count):
    for row in arithmetic.rows(part, count):
        user, assistant = row["messages"]
        yield {"prompt": user["content"], "response": assistant["content"], "reference": user["info"]["reference_answer"]}


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_that_run())
def test_every_command_of_a_page_runs(page, reader, tiny_model, monkeypatch, capsys):
    """A command that stands on several pages runs with the first of them. Ranks that it launches are one, in this process."""
    monkeypatch.chdir(reader)
    quick = list(doctor.PROPERTIES.items())[:6]  # the others start processes; test_check.py tries them all
    monkeypatch.setattr(doctor, "PROPERTIES", dict(quick))
    monkeypatch.setattr("tutelage.machines.launch", lambda ranks, words: main(words))
    for command in (command for command in COMMANDS if command.page == page and not command.needs):
        assert command.words[0] == "tutelage", f"{page}: {' '.join(command.words)}: mark what it needs (<!-- needs: … -->)"
        own = command.words[1:]
        first = next(other for other in COMMANDS if other.words == command.words and not other.needs)
        if first.page != page and "mine.toml" not in own:
            continue
        smaller = [word.replace("{tiny}", tiny_model) for word in SMALLER.get(own[0], [])]
        if "runs/first/config.toml" in own:
            smaller = []  # a replay is of the run as it was
        assert main([*own, *smaller]) == 0, f"{' '.join(command.words)}\n{capsys.readouterr()}"
        capsys.readouterr()


def test_commands_that_cannot_run_here_are_read_by_the_parser():
    """Their arguments and settings exist."""
    seen = 0
    for command in COMMANDS:
        assert command.needs in NEEDS | {""}, f"{command.page}: {command.needs}"
        words = list(command.words)
        for start in (["tutelage"], ["-m", "tutelage"], [".venv/bin/tutelage"]):
            if words[: len(start)] == start:
                words = words[len(start) :]
                break
        else:
            if "tutelage" not in words or words[0] == "pip":
                continue
            words = words[words.index("tutelage") + 1 :]
        others, overrides = split_overrides(words)
        arguments = build_parser().parse_args(others)
        assert arguments.command
        load_config(None, overrides)
        config = getattr(arguments, "config", None)
        if config and config.startswith("recipes/"):
            load_config(ROOT / config, overrides)
        seen += 1
    assert seen > 50


def test_recipes_that_are_named_are_there():
    for page in PAGES:
        for name in re.findall(r"recipes/[\w.-]+\.(?:toml|sbatch|yaml)", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_tests_that_are_named_are_there():
    known = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for page in TEXTS:
        for name in re.findall(r"(?<!\.)\btest_\w+", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in known or (ROOT / "tests" / f"{name}.py").is_file(), f"{page.name} names {name}"


def test_files_and_modules_that_are_named_are_there():
    package = ROOT / "src" / "tutelage"
    for page in TEXTS:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"\bsrc/[\w/.]*\w|\b[\w.-]+(?:/[\w.-]+)+\.py\b", text):
            assert any((folder / name).exists() for folder in (ROOT, ROOT / "src", package)), f"{page.name} names {name}"
        for name in re.findall(r"\btutelage((?:\.[A-Za-z]\w*)+)", text):
            place = package
            for part in name[1:].split("."):
                is_there = (place / part).is_dir() or (place / f"{part}.py").is_file()
                offered = (place / "__init__.py").read_text(encoding="utf-8")
                assert is_there or part in offered, f"{page.name} names tutelage{name}"
                place = place / part


def test_no_line_of_a_page_is_long_and_no_cell_is_a_paragraph():
    """Lines have 140 characters at most, outside tables and code. What is longer than 200 belongs below the table."""
    for page in TEXTS:
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"^([ ]*)```.*?^\1```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)
        for index, line in enumerate(text.splitlines(), 1):
            if line.startswith("|"):
                longest = max(len(cell.strip()) for cell in re.split(r"(?<!\\)\|", line))
                assert longest <= 200, f"{page.name}:{index}: a cell of {longest} characters: make it a list below the table"
            else:
                assert len(line) <= 140, f"{page.name}:{index}: a line of {len(line)} characters"


def test_the_reference_of_the_python_api_has_every_public_name():
    names = re.findall(r"^::: tutelage\.(\w+)$", (ROOT / "docs" / "reference" / "api.md").read_text(), re.MULTILINE)
    assert sorted(names) == tutelage.__all__


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install -e '.[docs]')")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "reference" / "configuration.html").read_text()
    assert "on_oom" in reference and "Peak learning rate" in reference
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text()
    assert "--max-loss" not in commands and "--gpus-per-trial" in commands
