"""Two writers of one output: the second is refused before it computes; one that was killed stops nobody and leaves nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tutelage.cli.entry import main
from tutelage.data import arithmetic
from tutelage.errors import InputError
from tutelage.runs import owned, write_text, writing
from tutelage.runs.files import to_lines

BUSY = "is being written by another process; wait for it, or choose another --out"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def writer(code: str, path: Path) -> subprocess.Popen[str]:
    """A process that runs code with `path`; it says a line when it is where it is wanted."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys, time\nfrom pathlib import Path\npath = Path(sys.argv[1])\n{code}", str(path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    return process


OWNS = """
from tutelage.runs import owned, writing
with owned(path), writing(path) as file:
    file.write("half")
    file.flush()
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    process = writer(OWNS, tmp_path / "out.jsonl")
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def rows(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "rows.jsonl"
    path.write_text(to_lines(arithmetic.rows("train", 12)))
    return path


@pytest.mark.slow
def test_the_second_writer_is_refused_and_a_killed_one_leaves_nothing(owner, rows, tmp_path, capsys, monkeypatch):
    """Every command that writes is refused in a line before it reads its data; after the kill the same command works."""
    out, computed = tmp_path / "out.jsonl", []
    pairs = tmp_path / "data" / "pairs.jsonl"
    pairs.write_text('{"reference": "5", "response": "5"}\n')
    monkeypatch.setattr("tutelage.data.iter_rows", lambda *_: computed.append(1))
    commands = [
        ["filter", str(rows), "--out", str(out)],
        ["grade", "--file", str(pairs), "--out", str(out)],
        ["init", "--model", "smollm2", "--train", "arithmetic", "--dir", "x", "--out", str(out)],
        ["report", str(rows.parent), "--out", str(out)],
        ["eval", "smollm2", str(rows), "--out", str(out)],
        ["plan", "--length", "100", "--device", "cpu", "--out", str(out)],
    ]
    for command in commands:
        assert main(command) == 2, command
        assert f"tutelage: --out: {out} {BUSY}\n" == capsys.readouterr().err[-len(f"tutelage: --out: {out} {BUSY}\n") :] and not computed
    monkeypatch.undo()
    assert not out.exists() and len(names(tmp_path)) == 3
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert main(commands[0]) == 0
    assert names(tmp_path) == {"data", "out.jsonl", "out.ledger.jsonl"}
    assert main(commands[0]) == 2 and "exists and is not overwritten" in capsys.readouterr().err


@pytest.mark.slow
def test_two_filters_of_one_output_at_once_never_mix(rows, tmp_path):
    """Both are started together, several times: one is refused, or comes after the other; the file is the winner's in full."""
    others = tmp_path / "data" / "others.jsonl"
    others.write_text(to_lines(arithmetic.rows("validation", 9)))
    code = "import sys; from tutelage.cli.entry import main; sys.exit(main())"
    for turn in range(2):
        out = tmp_path / f"{turn}.jsonl"
        both = [
            subprocess.Popen([sys.executable, "-c", code, "filter", str(file), "--out", str(out)], stderr=subprocess.PIPE, text=True)
            for file in (rows, others)
        ]
        said = [process.communicate()[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 2], said
        winner = (rows, others)[[process.returncode for process in both].index(0)]
        kept, given = out.read_text().splitlines(), winner.read_text().splitlines()
        assert kept and set(map(json.dumps, map(json.loads, kept))) <= set(map(json.dumps, map(json.loads, given)))
        assert len((tmp_path / f"{turn}.ledger.jsonl").read_text().splitlines()) == len(given)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_writers_at_once_leave_one_file_in_full_and_nothing_else(tmp_path):
    """Without an owner, as for a run's own files: many threads write the same file again and again; a reader finds it whole."""
    path, failed = tmp_path / "a.json", []

    def write(letter: str) -> None:
        try:
            for _ in range(20):
                write_text(path, letter * 5000)
                text = path.read_text()
                assert len(text) == 5000 and len(set(text)) == 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and names(tmp_path) == {"a.json"}


def test_a_leftover_is_removed_and_the_file_of_a_living_writer_is_not(tmp_path):
    path = tmp_path / "a.json"
    (tmp_path / ".a.json.0123abcd.tmp").write_text("of one that was killed")
    (tmp_path / ".a.json.mine.tmp").write_text("of somebody else")
    with writing(path) as first:
        first.write("first")
        write_text(path, "second")
    assert path.read_text() == "first" and names(tmp_path) == {"a.json", ".a.json.mine.tmp"}


def test_a_lock_that_its_owner_removes_meanwhile_is_not_shared(tmp_path, monkeypatch):
    """Another process opens the lock before the owner removes it, and locks it afterwards: it makes a new one."""
    path, opened = tmp_path / "out", []
    lock = tmp_path / ".out.lock"
    original = fcntl.flock

    def late(file, how):
        if not opened:
            opened.append(file)
            lock.unlink()  # as its owner does at its end
        original(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with owned(path):
        monkeypatch.undo()
        assert lock.exists()
        with pytest.raises(InputError, match=BUSY), owned(path):
            pass
    assert not names(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_once_and_files_are_still_full(tmp_path, monkeypatch, capsys, number):
    import tutelage.runs.owner as file

    def without(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file, "_without_locks", set())
    monkeypatch.setattr(fcntl, "flock", without)
    (tmp_path / ".out.0123abcd.tmp").write_text("of one that may live")
    with owned(tmp_path / "out"):
        write_text(tmp_path / "out", "full")
    write_text(tmp_path / "out", "full again")
    assert capsys.readouterr().out.count("has no locks") == 1
    assert (tmp_path / "out").read_text() == "full again" and names(tmp_path) == {"out", ".out.0123abcd.tmp"}


def test_names_that_no_file_can_have_are_refused_by_their_setting(tmp_path):
    for name in ("/", "", ".", "..", "a\0b", "x" * 300, "ä" * 130, "/".join(["x" * 200] * 30)):
        with pytest.raises(InputError, match=r"^--out: "), owned(Path(name)):
            pass
    longest = "x" * 255
    with owned(tmp_path / longest):
        write_text(tmp_path / longest, "full")
    assert names(tmp_path) == {longest}
    with pytest.raises(InputError, match="no such directory to write x.html to"), owned(tmp_path / "missing" / "x.html"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["/", "", "x" * 300, "a\0b", "missing/x.html", "/sys/kernel/x.html", "/dev/null/x"])
def test_each_command_refuses_an_output_that_cannot_be_with_exit_code_2(name, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = tmp_path / "data" / "pairs.jsonl"
    pairs.write_text('{"reference": "5", "response": "5"}\n')
    (tmp_path / "run").mkdir()
    commands = [
        ["filter", str(rows), "--out", name],
        ["grade", "--file", str(pairs), "--out", name],
        ["report", "run", "--out", name],
        ["plan", "--length", "100", "--device", "cpu", "--out", name],
    ]
    if "missing" not in name:  # these two make the directories above
        commands += [
            ["init", "--model", "smollm2", "--train", "arithmetic", "--dir", "x", "--out", name],
            ["eval", "smollm2", str(rows), "--out", name],
        ]
    for command in commands:
        assert main(command) == 2, command
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("tutelage: ") and len(said) < 400, said
    assert names(tmp_path) == {"data", "run"}


@pytest.mark.slow
def test_an_evaluation_that_was_not_finished_is_done_again_by_the_same_command(tiny_model, data_file, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.toml").write_text("")
    (out / "generations.jsonl").write_text('{"step": 0}\n')
    command = ["eval", tiny_model, str(data_file), "--out", str(out), "--eval.examples", "2", "--eval.max_new_tokens", "4"]
    command += ["--data.prompt", "plain", "--backend", "native", "--model.device", "cpu"]
    assert main(command) == 0 and "was not finished; all is asked again" in capsys.readouterr().out
    assert (out / "generations.before-restart-1.jsonl").read_text() == '{"step": 0}\n'
    assert len((out / "generations.jsonl").read_text().splitlines()) == 2
    assert main(command) == 2 and "exists and is not overwritten" in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_sweep_is_refused_before_it_reads_its_data(tmp_path, capsys, monkeypatch):
    process = writer(
        "import fcntl\npath.mkdir()\nlock = (path / '.lock').open('a')\nfcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('there', flush=True)\ntime.sleep(600)",
        tmp_path / "sweep",
    )
    try:
        monkeypatch.setattr("tutelage.experiments.sweep.lay_out", lambda *_: pytest.fail("it read its data"))
        assert main(["sweep", "--out", str(tmp_path / "sweep")]) == 2
        assert "is in use by another process" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    monkeypatch.undo()
    assert main(["sweep", "--out", str(tmp_path / "other"), "--data.train", str(tmp_path / "none.jsonl")]) == 2
    assert not (tmp_path / "other").exists()


def test_what_a_killed_maker_of_a_store_left_is_removed_by_the_next(tmp_path):
    from tutelage.data import cleaning

    old, new = tmp_path / ".part-00000.raw.arrow.1", tmp_path / ".part-00001.raw.arrow.2"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    cleaning.remove_leftovers(tmp_path)
    assert names(tmp_path) == {new.name}
