"""Kinds of bench/faults.py: commands that are killed or asked to end, disks that fill, two commands at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from disks import fill, limit, mount, unmount
from fault_lab import Case, Done, Lab, judge

EQUAL = "the same command goes on; weights, metrics, generations and ledger equal"


def moments(run: Path) -> dict[str, Callable[[], bool]]:
    """Moments of a training run, by what its directory shows."""
    checkpoints = run / "checkpoints"
    return {
        "metrics begun": lambda: (run / "metrics.jsonl").exists(),
        "first answers": lambda: (run / "generations.jsonl").exists(),
        "a checkpoint being written": lambda: any(checkpoints.glob(".tmp-*")),
        "checkpoint 2": lambda: (checkpoints / "step-00000002").exists(),
        "checkpoint 5": lambda: (checkpoints / "step-00000005").exists(),
        "the last checkpoint": lambda: (checkpoints / "step-00000008").exists(),
        "the model being written": lambda: (run / ".model.tmp").exists(),
        "the model": lambda: (run / "model").exists(),
        "the result": lambda: (run / "result.json").exists(),
    }


def kills(lab: Lab) -> Iterator[Case]:
    """SIGKILL of `train`, at moments of its files and at drawn times, in chains of three; then the same command."""
    yield from _ended(lab, signal.SIGKILL, chains=5, kills=3)


def terms(lab: Lab) -> Iterator[Case]:
    """SIGTERM at `train` from the moment when it listens; exit code 0; then the same command."""
    yield from _ended(lab, signal.SIGTERM, chains=3, kills=3)


def interrupts(lab: Lab) -> Iterator[Case]:
    """SIGINT (Ctrl-C) at `train` from the moment when it listens; exit code 130; then the same command."""
    yield from _ended(lab, signal.SIGINT, chains=3, kills=3)


def _ended(lab: Lab, number: signal.Signals, chains: int, kills: int) -> Iterator[Case]:
    drawn = random.Random(f"{lab.seed}{number}")
    lab.calm()
    codes = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (0,), signal.SIGINT: (130,)}[number]
    for chain in range(chains):
        run, done, whats = lab.fresh("rough"), [], []
        for _ in range(kills):
            at = drawn.choice([*moments(run), "a time"])
            delay = drawn.uniform(0.0, 1.5 if at == "a time" else 0.05)
            job = lab.start(*lab.train(run))
            job.wait_for(job.listens)
            if at != "a time":
                job.wait_for(moments(run)[at])
            job.wait_for(lambda: False, delay)
            was_alive = job.alive()
            job.send(number)
            ended = job.wait()
            done.append(judge(ended, codes if was_alive and number == signal.SIGKILL else (0, *codes)))
            whats.append(f"{number.name} {at} + {delay:.2f} s")
            if (run / "result.json").exists():  # it was done
                break
        last = lab.goes_on(run)
        for index, what in enumerate(whats):
            yield Case(f"chain {chain + 1}: {what}", EQUAL, done[index] or (last if index == len(whats) - 1 else ""))


def terms_while_importing(lab: Lab) -> Iterator[Case]:
    """SIGTERM at a new process of `python -m tutelage train` while it imports: exit code 0, as later."""
    for delay in (0.0, 0.7, 2.0):
        run = lab.fresh("early")

        def command(run: Path = run) -> None:
            os.execv(sys.executable, [sys.executable, "-m", "tutelage", *map(str, lab.train(run))])

        job = lab.fork(command)
        job.wait_for(job.listens, 60)
        job.wait_for(lambda: False, delay)
        job.send(signal.SIGTERM)
        yield Case(f"SIGTERM {delay} s after the first line", "exit code 0, asked to stop", judge(job.wait(90), (0,)))


def kills_of_others(lab: Lab) -> Iterator[Case]:
    """SIGKILL of `filter`, `eval` and `report` at drawn times; the same command makes the same files, and nothing is left over."""
    drawn, calm = random.Random(lab.seed), lab.copied(lab.calm(), "finished")
    for name, make in (("filter", _filter), ("eval", _eval), ("report", _report)):
        words, out = make(lab, calm, "killed")
        words_calm, out_calm = make(lab, calm, "undisturbed")
        assert lab.run(*words_calm).code == 0, f"{name} failed undisturbed"
        wanted = _content(out_calm)
        for _ in range(3):
            delay = drawn.uniform(0.0, 1.0)
            job = lab.start(*words)
            job.wait_for(lambda: False, delay)
            job.send(signal.SIGKILL)
            job.wait()
            problem = "half a file under its name" if name == "filter" and out.exists() and _content(out) != wanted else ""
            _remove(out)
            problem = problem or judge(lab.run(*words), (0,)) or ("" if _content(out) == wanted else "another result")
            left = [
                path.name for path in out.parent.glob(f".{out.name}*") if "lock" not in path.name and "owner" not in path.name
            ]
            yield Case(
                f"SIGKILL of {name} after {delay:.2f} s",
                "the same file, nothing left over",
                problem or (f"left over: {left}" if left else ""),
            )
            _remove(out)


def _filter(lab: Lab, run: Path, name: str) -> tuple[list[Any], Path]:
    out = lab.folder / f"{name}-kept.jsonl"
    return ["filter", lab.rows, "--out", out], out


def _eval(lab: Lab, run: Path, name: str) -> tuple[list[Any], Path]:
    out = lab.folder / f"{name}-evaluated"
    return ["eval", run, lab.rows, "--out", out, "--eval.examples=4", "--eval.max_new_tokens=4"], out


def _report(lab: Lab, run: Path, name: str) -> tuple[list[Any], Path]:
    out = lab.folder / f"{name}-page.html"
    return ["report", run, "--out", out], out


def _content(out: Path) -> Any:
    """What a command wrote: rows, answers without their times, or whether a page is whole."""
    if out.is_dir():
        lines = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "time" and not key.endswith("seconds")} for line in lines]
    text = out.read_text()
    return text.rstrip().endswith("</html>") if out.suffix == ".html" else text


def _remove(out: Path) -> None:
    for path in out.parent.glob(f"{out.stem}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def full_disks(lab: Lab) -> Iterator[Case]:
    """The disk fills: a small tmpfs where mounting is allowed, else a limit of what one file may hold (RLIMIT_FSIZE)."""
    calm = lab.calm()
    for megabytes in (1, 2, 3, 4, 6):
        disk = lab.fresh(f"disk-{megabytes}")
        if not mount(disk, megabytes):
            break
        try:
            run, filler = disk / "run", disk / "filler"
            job = lab.start(*lab.train(run, "--run.keep_last=1"))
            if job.wait_for(lambda run=run: (run / "checkpoints" / "step-00000002").exists()):
                fill(filler)
            done = job.wait()
            filler.unlink(missing_ok=True)
            problem = _went_on(lab, done, run) if done.code != 2 else judge(done, (2,), named="free")
            yield Case(
                f"train on a disk of {megabytes} MB that fills after step 2", f"one message; with room again {EQUAL}", problem
            )
        finally:
            unmount(disk)
    for kilobytes in (16, 40, 80, 200):
        run = lab.fresh("limited")
        done = lab.run(*lab.train(run), first=lambda most=kilobytes: limit(most))
        yield Case(
            f"train with files of {kilobytes} KB at most", f"one message; without the limit {EQUAL}", _went_on(lab, done, run)
        )
    for name, words, out in (("filter", *_filter(lab, calm, "full")), ("report", *_report(lab, calm, "full"))):
        done = lab.run(*words, first=lambda: limit(2))
        problem = judge(done, (1, 2), named="written|large|space") or ("half a file" if out.exists() else "")
        yield Case(f"{name} with files of 2 KB at most", "one message, no file", problem)


def _went_on(lab: Lab, done: Done, run: Path) -> str:
    """Why a run whose disk filled does not hold: it is told, and finishes then, or with the same command once there is room."""
    if (run / "result.json").exists():
        return judge(done, (0, 1), run=run, calm=lab.calm())
    return judge(done, (1, 2), named="disk|large|written|space|room") or lab.goes_on(run, "--run.keep_last=1")


def read_only(lab: Lab) -> Iterator[Case]:
    """Directories and files that cannot be written: one message, and nothing is made. A file stands in the way of each directory."""
    calm, barrier = lab.calm(), lab.folder / "barrier"
    barrier.write_text("a file")
    for words in (
        lab.train(barrier),
        lab.train(barrier / "run"),
        lab.train(Path("/proc/run")),
        lab.train(Path("/sys/run")),
        ("filter", lab.rows, "--out", barrier / "x.jsonl"),
        ("filter", lab.rows, "--out", "/proc/x.jsonl"),
        ("report", calm, "--out", barrier / "x.html"),
        ("report", calm, "--out", "/proc/x.html"),
        ("eval", calm, lab.rows, "--out", barrier / "x"),
        ("eval", calm, lab.rows, "--out", "/proc/x"),
        ("init", "--model", lab.model, "--train", lab.rows, "--dir", "x", "--out", barrier / "x.toml"),
    ):
        yield Case(
            str(words[0]) + f" to {[str(w) for w in words if 'barrier' in str(w) or '/proc' in str(w) or '/sys' in str(w)]}",
            "one message, exit code 2 or 1",
            judge(lab.run(*words), (1, 2)),
        )
    run = lab.fresh("cacheless")
    env = {"TUTELAGE_CACHE": str(barrier / "cache")}
    yield Case(
        "train whose cache cannot be written",
        EQUAL,
        judge(lab.run(*lab.train(run), env=env), (0, 1, 2), named="cache", run=run, calm=calm),
    )


def deleted_directories(lab: Lab) -> Iterator[Case]:
    """The run directory is removed, or moved away, while it trains: the run stops at its next write with one message."""
    for how in ("removed", "moved away"):
        run = lab.fresh("gone")
        job = lab.start(*lab.train(run))
        job.wait_for(lambda run=run: (run / "checkpoints" / "step-00000002").exists())
        if how == "removed":
            while run.exists():  # a file may be made between the last look and the end
                shutil.rmtree(run, ignore_errors=True)
        else:
            run.rename(lab.fresh("away"))
        problem = judge(job.wait(), (1,), named="gone|removed|deleted|no longer|not there|No such file")
        half = "half a directory came back" if run.exists() and not (run / "config.toml").exists() and any(run.iterdir()) else ""
        yield Case(f"the run directory is {how} after step 2", "exit code 1 and one message", problem or half)


def concurrency(lab: Lab) -> Iterator[Case]:
    """Two commands at once: two `train` of one directory, `filter`s to one and to two files, `report` beside `train`."""
    calm = lab.calm()
    for _ in range(2):
        run = lab.fresh("shared")
        first = lab.start(*lab.train(run))
        first.wait_for(lambda run=run: (run / "metrics.jsonl").exists())
        second = lab.run(*lab.train(run))
        problem = judge(second, (2,)) or judge(first.wait(), (0,), run=run, calm=calm)
        yield Case("two trains of one directory", "the second is refused, the first is undisturbed", problem)
    other = lab.folder / "other-rows.jsonl"
    lines = lab.rows.read_text().splitlines(keepends=True)
    other.write_text("".join(lines[:17]))
    wanted = {source: _kept(lab, source, "alone") for source in (lab.rows, other)}
    for index in range(6):
        out = lab.folder / f"both-{index}.jsonl"
        jobs = {source: lab.start("filter", source, "--out", out) for source in (lab.rows, other)}
        ends = {source: job.wait() for source, job in jobs.items()}
        yield Case(
            f"two filters to one file, try {index + 1}", "one writes all, the other is refused", _one_won(ends, out, wanted)
        )
    jobs = {source: lab.start("filter", source, "--out", lab.folder / f"apart-{source.name}") for source in (lab.rows, other)}
    problems = [judge(job.wait(), (0,)) for job in jobs.values()]
    same = all((lab.folder / f"apart-{source.name}").read_text() == text for source, text in wanted.items())
    yield Case("two filters to two files, one cache", "both whole", "".join(problems) or ("" if same else "other rows"))
    run = lab.fresh("watched")
    job = lab.start(*lab.train(run))
    job.wait_for(lambda: (run / "metrics.jsonl").exists())
    page = judge(lab.run("report", run, "--out", lab.folder / "watched.html"), (0, 2))
    yield Case(
        "report of a run in training", "a page, and the run is undisturbed", page or judge(job.wait(), (0,), run=run, calm=calm)
    )


def _kept(lab: Lab, source: Path, name: str) -> str:
    out = lab.folder / f"{name}-{source.name}"
    assert lab.run("filter", source, "--out", out).code == 0
    return out.read_text()


def _one_won(ends: dict[Path, Done], out: Path, wanted: dict[Path, str]) -> str:
    winners = [source for source, done in ends.items() if done.code == 0]
    if len(winners) != 1:
        return f"exit codes {[done.code for done in ends.values()]}"
    losers = [judge(done, (1, 2)) for source, done in ends.items() if source != winners[0]]
    return "".join(losers) or ("" if out.read_text() == wanted[winners[0]] else "the file holds rows of the other")


KINDS: dict[str, Callable[[Lab], Iterator[Case]]] = {
    "kills": kills,
    "terms": terms,
    "interrupts": interrupts,
    "terms_while_importing": terms_while_importing,
    "kills_of_others": kills_of_others,
    "full_disks": full_disks,
    "read_only": read_only,
    "deleted_directories": deleted_directories,
    "concurrency": concurrency,
}
