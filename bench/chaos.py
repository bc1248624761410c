"""Random SIGKILLs of a worker or of the whole job, saves in flight among them; does the run end as if nothing had happened?

    python bench/chaos.py                       # two ranks, 30 kills, a tiny random model: about ten minutes on two cores
    python bench/chaos.py --kills 3 --steps 200

Writes bench/results/chaos.json: how many kills there were and of what, how many the next start survived, and whether weights,
metrics and generations equal those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import write

WAIT_SECONDS = 300


def job(config: Path, run: Path, ranks: int) -> list[str]:
    return [sys.executable, "-m", "tutelage", "train", str(config), f"--run.dir={run}", "--launch", str(ranks)]


def chaos(config: Path, directory: Path, kills: int, ranks: int = 2, seed: int = 0) -> dict[str, Any]:
    """Train undisturbed, then through so many kills, and compare.

    Args:
        config: a configuration whose checkpoints are frequent.
    """
    calm, rough = directory / "calm", directory / "rough"
    subprocess.run(job(config, calm, ranks), check=True, stdout=subprocess.DEVNULL)
    drawn, tally = random.Random(seed), {"worker": 0, "job": 0, "while starting": 0, "with a save open": 0}
    survived = unproven = 0
    for number in range(kills):
        starting = drawn.random() < 0.2
        started = time.time()
        with (directory / "rough.log").open("a") as log:
            process = subprocess.Popen(job(config, rough, ranks), start_new_session=True, stdout=log, stderr=log)
        if starting:
            time.sleep(drawn.uniform(0.5, 8.0))
        else:
            wait_for(lambda since=started: last_line(rough)["time"] > since, process)
            survived, unproven = survived + unproven, 0  # it went on
            time.sleep(drawn.uniform(0.1, 2.0))
            if drawn.random() < 0.7:  # in the middle of a save
                with contextlib.suppress(TimeoutError):
                    wait_for(lambda since=started: save_is_open(rough, since), process, seconds=5)
        if process.poll() is not None:
            raise SystemExit(f"the run ended (code {process.returncode}) before {kills} kills: give it more --steps")
        kind = drawn.choice(["worker", "job"])
        open_save = save_is_open(rough, started)
        kill(process, kind, drawn)
        tally[kind] += 1
        tally["while starting"] += starting
        tally["with a save open"] += open_save
        unproven += 1
        when = f"{', starting' if starting else ''}{', a save open' if open_save else ''}"
        print(f"kill {number + 1}: {kind}{when}, step {last_line(rough)['step']}", flush=True)
    finished = subprocess.run(job(config, rough, ranks), stdout=subprocess.DEVNULL)
    same = {name: digest(calm, name) == digest(rough, name) for name in ("weights", "metrics", "generations", "ledger")}
    survived += unproven if finished.returncode == 0 else 0
    return {"ranks": ranks, "kills": kills, "survived": survived, "hashes_equal": all(same.values()), "same": same, **tally}


def kill(process: subprocess.Popen[Any], kind: str, drawn: random.Random) -> None:
    """SIGKILL to one rank, or to the launcher and all ranks; returns when nothing of the job is left."""
    ranks = children(process.pid)
    victims = [drawn.choice(ranks)] if kind == "worker" and ranks else [process.pid, *ranks]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(WAIT_SECONDS)
    if kind == "worker" and ranks:
        assert process.returncode != 0, "a job whose rank was killed must not end well"
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.1)


def save_is_open(run: Path, since: float) -> bool:
    """Whether a checkpoint is being written that was begun after a time: what an earlier life left does not count."""
    with contextlib.suppress(OSError):
        return any(path.stat().st_mtime > since for path in (run / "checkpoints").glob(".tmp-*"))
    return False


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def last_line(run: Path) -> dict[str, Any]:
    """The last whole line of the metrics."""
    with contextlib.suppress(OSError):
        for line in reversed((run / "metrics.jsonl").read_bytes().split(b"\n")):
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                return found
    return {"step": 0, "time": 0.0}


def wait_for(condition: Any, process: subprocess.Popen[Any], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself with code {process.returncode}; see rough.log")
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def digest(run: Path, what: str) -> str:
    """A hash of what a run left, times of day, speeds and notes of checkpoints that could not be written apart."""
    if what == "weights":
        return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (run / f"{what}.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.get("kind") != "save_failed"]
    for line in lines:
        for key in [key for key in line if key.endswith("seconds") or key in ("time", "tokens_per_second", "matrix_share", "memory_gb")]:
            del line[key]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def tiny_job(directory: Path, steps: int, save_every: int = 5) -> Path:
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
eval = {{ every = {max(1, steps // 8)}, examples = 8, full = false, max_new_tokens = 8, backend = "native" }}
run = {{ save_every = {save_every} }}
"""
    )
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tutelage-chaos-") as name:
        directory = Path(name)
        started = time.monotonic()
        found = chaos(tiny_job(directory, arguments.steps), directory, arguments.kills, arguments.ranks, arguments.seed)
        found |= {"steps": arguments.steps, "seconds": round(time.monotonic() - started)}
    print(json.dumps(found, indent=2))
    write("chaos", found)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
