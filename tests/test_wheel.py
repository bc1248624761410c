"""What `pip install tutelage` gives: a wheel that works without the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tutelage.cli import main
from tutelage.data import arithmetic
from tutelage.runs.files import to_lines

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("tutelage-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment that has the wheel, and this one's libraries, but neither this project nor its editable install."""
    directory = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    (packages,) = (directory / "lib").glob("python*/site-packages")
    # a directory on the path, whose own .pth files, the editable install's among them, are not looked at
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory


@pytest.mark.slow
def test_the_wheel_holds_templates_scripts_prompts_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("report/run.html", "report/compare.html", "report/page.js", "report/problems.js", "report/page.css", "prompts/r1_zero.txt", "py.typed", "check/rank.py"):
        assert any(found.endswith(name) for found in names), name
    assert not any("tests/" in name or "bench/" in name for name in names)


@pytest.mark.slow
def test_the_wheel_runs_without_the_repository(installed, tiny_model, tmp_path):
    (tmp_path / "rows.jsonl").write_text(to_lines(arithmetic.rows("train", 40)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run([*words], cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(str(installed / "bin" / "python"), "-c", "import tutelage; print(tutelage.__file__)")
    assert where.startswith(str(installed))
    tutelage = str(installed / "bin" / "tutelage")
    assert run(tutelage, "--version").startswith("tutelage ")
    assert json.loads(run(tutelage, "grade", "1/2", "0.5", "--json"))["equal"] is True
    run(
        tutelage, "train", "--model.id", tiny_model, "--model.device", "cpu", "--data.train", "rows.jsonl", "--data.prompt", "plain",
        "--train.num_steps", "2", "--eval.examples", "2", "--eval.max_new_tokens", "8", "--eval.backend", "native", "--run.dir", "run",
    )  # fmt: skip
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_completion_script_knows_commands_settings_and_choices(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("plan", "check", "--train.on_oom", "adapt", "--gpus", "bf16-sr"):
        assert word in script, word


def test_bash_completes_a_setting(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion.sh").write_text(capsys.readouterr().out)
    code = (
        f"source {tmp_path / 'completion.sh'}; COMP_WORDS=(tutelage train --train.on_o); COMP_CWORD=2;"
        " $(complete -p tutelage | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["--train.on_oom"], done.stdout + done.stderr
