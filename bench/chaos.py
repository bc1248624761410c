"""A job of several ranks that is disturbed at random, again and again; does the run end as if nothing had happened?

    python bench/chaos.py                       # four ranks, 60 disturbances, a tiny random model: about half an hour on two cores
    python bench/chaos.py --kills 7 --ranks 2   # each kind once

A disturbance is of one of these kinds: a SIGKILL of a rank ("worker") or of the full job ("job"); either of them while the job
starts ("starting") or while a checkpoint is being written ("saving"); a disk that fills up during a save ("disk"); a rank that is
stopped and answers nobody ("hang"); SIGTERM ("term"). How the job ends is judged: by itself, with its exit code, without a traceback.
Then the same command is started again, and survives the disturbance if it takes a step.

Jobs are forked from this process, which has imported all packages; those that are killed while they start, and every tenth
besides, are started by the real command line.

Writes bench/results/chaos.json: how many disturbances of each kind there were, how many the next start survived, and whether
weights, metrics, generations and ledger equal those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disks import fill, mount, unmount
from fault_lab import PARTS, unlike
from forked import Forked, import_all, in_fork
from harness import commit, write

KINDS = ("worker", "job", "starting", "saving", "disk", "hang", "term")
WAIT_SECONDS = 900.0
"""How long a start may take until its first step, and a disturbed job until its end."""
TIMEOUT = 25
"""`parallel.timeout`: after so many seconds a hang is noticed."""
REAL_EVERY = 10
"""Every so manieth start is one of the real command line."""
DISK_MEGABYTES = 24


@dataclass
class Job:
    """A job under way, what it prints, and when it was started."""

    process: Forked | subprocess.Popen[Any]
    log: Path
    run: Path
    since: float = field(default_factory=time.time)

    def lives(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, event: Callable[[], bool], seconds: float = WAIT_SECONDS) -> bool:
        """Wait for an event; whether it came while the job lived."""
        deadline = time.monotonic() + seconds
        while self.lives() and time.monotonic() < deadline:
            if event():
                return True
            time.sleep(0.002)
        return False

    def trains(self) -> bool:
        return bool(last_line(self.run)["time"] > self.since)

    def saves(self) -> bool:
        """Whether a checkpoint is being written that was begun by this job: what an earlier one left does not count."""
        with contextlib.suppress(OSError):
            return any(path.stat().st_mtime > self.since for path in (self.run / "checkpoints").glob(".tmp-*"))
        return False

    def ranks(self) -> list[int]:
        return children(self.process.pid)

    def kill(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def ended(self, ranks: list[int], codes: tuple[int, ...], named: str = "") -> str:
        """Wait until nothing of the job is left; what is wrong with how it ended, or "".

        Args:
            ranks: its ranks before it was disturbed.
            named: a pattern of what its output must name.
        """
        problem = ""
        try:
            self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            problem = "it did not end"
            self.kill([self.process.pid, *ranks])
            self.process.wait(WAIT_SECONDS)
        deadline = time.monotonic() + 30
        while any(map(is_alive, ranks)) and time.monotonic() < deadline:
            time.sleep(0.02)
        printed = self.log.read_text(errors="replace")
        if not problem and any(map(is_alive, ranks)):
            problem = "ranks live on without their launcher"
        if not problem and self.process.returncode not in codes:
            problem = f"exit code {self.process.returncode}"
        if not problem and "Traceback" in printed:
            problem = "a traceback"
        if not problem and not re.search(named, printed):
            problem = f"the cause ({named}) is not named"
        return f"{problem}: {printed[-1500:]}" if problem else ""


@dataclass
class Chaos:
    """Runs jobs in a folder, and disturbs them.

    Attributes:
        disk: the folder with the disturbed run, a small disk where that is allowed.
        forked, real: how many jobs were started in either way.
        cut: kills that left half a checkpoint.
        last: the job that was started last.
    """

    folder: Path
    disk: Path
    config: Path
    ranks: int
    drawn: random.Random
    has_disk: bool
    forked: int = 0
    real: int = 0
    cut: int = 0
    last: Job | None = None

    @property
    def run(self) -> Path:
        return self.disk / "rough"

    def start(self, run: Path, real: bool) -> Job:
        self.last = self._started(run, real)
        return self.last

    def _started(self, run: Path, real: bool) -> Job:
        words = ["train", str(self.config), f"--run.dir={run}", "--launch", str(self.ranks)]
        command = [sys.executable, "-m", "tutelage", *words]
        log = self.folder / f"log-{self.forked + self.real}"
        if not real:
            self.forked += 1
            return Job(Forked(command, log=log), log, run)
        self.real += 1
        with log.open("w") as out:
            return Job(subprocess.Popen(command, start_new_session=True, stdout=out, stderr=out), log, run)

    def disturb(self, job: Job, kind: str) -> str:
        """Disturb a job in one way, and wait for its end; what is wrong with that end, or ""."""
        if kind == "saving":
            job.wait_for(job.saves)
        ranks = job.ranks()
        if kind in ("worker", "job", "starting", "saving"):
            worker = ranks and (kind == "worker" or (kind != "job" and self.drawn.random() < 0.5))
            job.kill([self.drawn.choice(ranks)] if worker else [job.process.pid, *ranks])
            wrong = job.ended(ranks, (1,) if worker else (-signal.SIGKILL,), "was ended by SIGKILL" if worker else "")
            self.cut += job.saves()
            return wrong
        if kind == "disk":
            return self.fill_disk(job, ranks)
        if kind == "hang":
            os.kill(self.drawn.choice(ranks), signal.SIGSTOP)
            return job.ended(ranks, (1,), "does not respond")
        job.process.send_signal(signal.SIGTERM)
        return job.ended(ranks, (0,), "SIGTERM: stopped after step")

    def fill_disk(self, job: Job, ranks: list[int]) -> str:
        """Take all room during a save, until the job has ended; then the room is there again."""
        filler = self.disk / "filler"
        job.wait_for(job.saves)
        if self.has_disk:
            fill(filler)
        else:  # no file of the job may become longer than it is
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(rank, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        wrong = job.ended(ranks, (1,), "disk is full|No space left|File too large")
        filler.unlink(missing_ok=True)
        return wrong


def chaos(lab: Chaos, kinds: list[str]) -> dict[str, Any]:
    """Train undisturbed, then through these disturbances, and compare."""
    calm = lab.folder / "calm"
    undisturbed = lab.start(calm, real=False)
    assert undisturbed.process.wait(1800) == 0, undisturbed.log.read_text()[-3000:]
    by_kind = {kind: {"tried": 0, "survived": 0} for kind in KINDS}
    failures: list[str] = []
    began = time.monotonic()
    open_: list[str] = []  # kinds whose next start has not taken a step yet
    for index, kind in enumerate(kinds):
        job = lab.start(lab.run, real=kind == "starting" or index % REAL_EVERY == REAL_EVERY - 1)
        if kind == "starting":
            time.sleep(lab.drawn.uniform(0.5, 20.0))
        else:
            goes_on(job, lab, open_, by_kind, failures)
            wanted = last_line(lab.run)["step"] + lab.drawn.randint(0, 6)
            job.wait_for(lambda wanted=wanted: last_line(lab.run)["step"] >= wanted)
        if (lab.run / "result.json").exists():
            failures.append(f"the run was finished before disturbance {index + 1} of {len(kinds)}: give it more --steps")
            break
        wrong = lab.disturb(job, kind) if job.lives() else f"it had ended: {job.log.read_text()[-1500:]}"
        by_kind[kind]["tried"] += 1
        if wrong:
            failures.append(f"{index + 1} ({kind}): {wrong}")
        else:
            open_.append(kind)
        seconds = time.monotonic() - began
        left = seconds / (index + 1) * (len(kinds) - index - 1)
        print(
            f"{index + 1}: {kind}, step {last_line(lab.run)['step']}, {seconds:.0f} s, about {left:.0f} s more; {wrong[:300]}",
            flush=True,
        )
    last = lab.start(lab.run, real=True)
    goes_on(last, lab, open_, by_kind, failures)
    if last.process.wait(1800) != 0:
        failures.append(f"the last start: {last.log.read_text()[-1500:]}")
    differing = unlike(lab.run, calm)
    survived = sum(each["survived"] for each in by_kind.values())
    return {
        "ranks": lab.ranks, "kills": sum(each["tried"] for each in by_kind.values()), "survived": survived, "hashes_equal": not differing,
        "same": {part: part not in differing for part in PARTS}, "by_kind": {k: v for k, v in by_kind.items() if v["tried"]},
        "half_saves_left": lab.cut, "disk": f"tmpfs of {DISK_MEGABYTES} MB" if lab.has_disk else "RLIMIT_FSIZE",
        "starts": {"forked from a process that had imported all packages": lab.forked, "of the real command line": lab.real},
        "failures": failures,
    }  # fmt: skip


def goes_on(job: Job, lab: Chaos, open_: list[str], by_kind: dict[str, dict[str, int]], failures: list[str]) -> None:
    """Wait for the first step of a start: then all that was disturbed before it is survived."""
    if not job.wait_for(job.trains) and not job.trains():
        failures.append(f"no step after {', '.join(open_) or 'a start'}: {job.log.read_text()[-1500:]}")
    else:
        for kind in open_:
            by_kind[kind]["survived"] += 1
    open_.clear()


def drawn_kinds(count: int, drawn: random.Random) -> list[str]:
    """So many kinds, each as often as the others, in a drawn order."""
    kinds = [KINDS[index % len(KINDS)] for index in range(count)]
    drawn.shuffle(kinds)
    return kinds


def is_alive(pid: int) -> bool:
    """Whether a process exists that is no zombie."""
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return sorted(found)


def last_line(run: Path) -> dict[str, Any]:
    """The last unbroken line of the metrics that has a step."""
    with contextlib.suppress(OSError):
        for line in reversed((run / "metrics.jsonl").read_bytes().split(b"\n")):
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                if "step" in found:
                    return found
    return {"step": 0, "time": 0.0}


def tiny_job(directory: Path, steps: int, save_every: int = 4) -> Path:
    """A configuration of a tiny random model on the built-in task, with frequent checkpoints."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from tiny import make_tiny_model

    model = make_tiny_model(directory / "tiny")
    config = directory / "config.toml"
    config.write_text(
        f"""
model = {{ id = "{model}", device = "cpu", precision = "fp32" }}
data = {{ train = "arithmetic", prompt = "plain", size = 64 }}
train = {{ lr = 1e-3, batch_size = 4, grad_accum = 2, num_steps = {steps} }}
eval = {{ every = {max(1, steps // 4)}, examples = 8, full = false, max_new_tokens = 8, backend = "native" }}
run = {{ save_every = {save_every} }}
parallel = {{ timeout = {TIMEOUT} }}
"""
    )
    return config


@contextlib.contextmanager
def a_lab(arguments: argparse.Namespace) -> Iterator[Chaos]:
    """A folder with a small disk in it."""
    with tempfile.TemporaryDirectory(prefix="tutelage-chaos-") as name:
        folder = Path(name)
        os.environ["TUTELAGE_CACHE"] = str(folder / "cache")
        made = in_fork(lambda: tiny_job(folder, arguments.steps or 3 * arguments.kills + 30))
        assert made == 0, "the tiny model could not be made"
        disk = folder / "disk"
        has_disk = mount(disk, DISK_MEGABYTES)
        lab = Chaos(folder, disk, folder / "config.toml", arguments.ranks, random.Random(arguments.seed), has_disk)
        try:
            yield lab
        finally:
            if lab.last is not None:
                lab.last.kill([*lab.last.ranks(), lab.last.process.pid])
                lab.last.process.wait(WAIT_SECONDS)
            if has_disk:
                unmount(disk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--steps", type=int, help="of the run; by default enough for so many kills")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", TOKENIZERS_PARALLELISM="false")
    started = time.monotonic()
    import_all()
    with a_lab(arguments) as lab:
        found = chaos(lab, drawn_kinds(arguments.kills, lab.drawn))
    found |= {"commit": commit(), "seconds": round(time.monotonic() - started)}
    print(json.dumps(found, indent=2))
    write("chaos", found)


if __name__ == "__main__":
    main()
