"""Kinds of bench/faults.py: files of runs and caches that are damaged, and runs that go on with something else than they began with."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_lab import Case, Lab, flip, judge, spoil

RULE = "the same result, or the file is named; no other number without a word"


def run_files(lab: Lab) -> Iterator[Case]:
    """Each file of an unfinished run is removed, emptied, cut, overwritten or made another type; the run goes on, and is reported."""
    calm, unfinished = lab.calm(), lab.unfinished()
    usual = ("removed", "empty", "half", "garbage", "list", "null")
    files = {
        "config.toml": usual[:4],
        "environment.json": usual,
        "plan.json": usual,
        "data.json": usual,
        "identity.json": usual,
        "template.json": usual,
        "prompt.txt": usual[:3],
        "ledger.jsonl": usual,
        "metrics.jsonl": (*usual, "object", "number", "brackets"),
        "generations.jsonl": (*usual, "number"),
        "checkpoints/step-00000006/COMPLETE.json": (*usual, "object"),
        "checkpoints/step-00000006/.metadata": usual[:4],
        "checkpoints/step-00000006/__0_0.distcp": (*usual[:4], "zeroed"),
    }
    for name, damages in files.items():
        for damage in damages:
            run = lab.copied(unfinished, "damaged")
            if not (run / name).exists():
                continue
            spoil(run / name, damage)
            stem = "step-00000006" if "checkpoints" in name else name.split(".")[0]
            page = judge(lab.run("report", run), (0, 1, 2)) if "checkpoints" not in name else ""
            problem = judge(lab.run(*lab.train(run)), (0, 1, 2), named=stem, run=run, calm=calm)
            yield Case(f"{name} {damage}, then train and report", RULE, problem or (page and f"report: {page}"))
    for what in ("all seals removed", "a copy named step-zzz", "all checkpoints removed", "a directory as metrics.jsonl"):
        run = lab.copied(unfinished, "damaged")
        if what == "all seals removed":
            for seal in run.glob("checkpoints/*/COMPLETE.json"):
                seal.unlink()
        elif what == "a copy named step-zzz":
            shutil.copytree(run / "checkpoints" / "step-00000006", run / "checkpoints" / "step-zzz")
        elif what == "all checkpoints removed":
            shutil.rmtree(run / "checkpoints")
        else:
            (run / "metrics.jsonl").unlink()
            (run / "metrics.jsonl").mkdir()
        yield Case(what, RULE, judge(lab.run(*lab.train(run)), (0, 1, 2), named="checkpoint|metrics", run=run, calm=calm))


def bit_flips(lab: Lab) -> Iterator[Case]:
    """One bit of a checkpoint's tensors, drawn, is flipped: it is not loaded, and an older checkpoint is used, in words."""
    drawn, calm, unfinished = random.Random(lab.seed), lab.calm(), lab.unfinished()
    for _ in range(20):
        run = lab.copied(unfinished, "flipped")
        path = max((run / "checkpoints" / "step-00000006").glob("*.distcp"))
        index, bit = drawn.randrange(path.stat().st_size), drawn.randrange(8)
        flip(path, index, bit)
        problem = judge(lab.run(*lab.train(run)), (0,), named="step-00000006|step 6", run=run, calm=calm)
        if not problem and "6" not in _said_of(lab):
            problem = "the damaged checkpoint is not named"
        yield Case(
            f"bit {bit} of byte {index} of {path.name}", "the older checkpoint is used, in words; the result equals", problem
        )


def _said_of(lab: Lab) -> str:
    """What the last command printed of checkpoints."""
    lines = (lab.folder / f"log-{lab.jobs}").read_text(errors="replace").splitlines()
    return " ".join(line for line in lines if "step-00000006" in line or "damaged" in line or "checksum" in line)


def caches(lab: Lab) -> Iterator[Case]:
    """The caches of verdicts and of rows in tokens are damaged: the result is the same."""
    calm = lab.calm()
    assert lab.run("filter", lab.rows, "--out", lab.folder / "reference.jsonl").code == 0
    wanted = (lab.folder / "reference.jsonl").read_text()
    cache = lab.folder / "cache"
    kept = lab.copied(cache, "cache-kept")
    for path in sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file() and path.stat().st_size):
        for damage in ("garbage", "half", "zeroed"):
            lab.copied(kept, "cache")
            spoil(cache / path, damage)
            run, out = lab.fresh("cached"), lab.fresh("cached.jsonl")
            out.unlink(missing_ok=True)
            lab.fresh("cached.ledger.jsonl").unlink(missing_ok=True)
            problem = judge(lab.run(*lab.train(run)), (0,), run=run, calm=calm) or judge(
                lab.run("filter", lab.rows, "--out", out), (0,)
            )
            same = problem or ("" if out.read_text() == wanted else "filter kept other rows")
            yield Case(f"{path.parts[0]}/…{path.suffix} of the cache: {damage}", "the same run and the same rows", same)
    lab.copied(kept, "cache")


def finished_runs(lab: Lab) -> Iterator[Case]:
    """Files of a finished run's model are damaged; `eval` and `report` refuse, name the file or say the same."""
    calm = lab.calm()
    words = ("--eval.examples=2", "--eval.max_new_tokens=4")
    sound = lab.run("eval", calm, lab.rows, "--out", lab.fresh("sound"), *words)
    assert sound.code == 0, sound.text
    wanted = (lab.folder / "sound" / "generations.jsonl").read_text()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for damage in ("removed", "empty", "half", "garbage", "zeroed", "flipped"):
            run = lab.copied(calm, "damaged")
            path = run / "model" / name
            flip(path, path.stat().st_size // 2) if damage == "flipped" else spoil(path, damage)
            out = lab.fresh("of-damaged")
            done = lab.run("eval", run, lab.rows, "--out", out, *words)
            problem = judge(done, (0, 1, 2), named="" if done.code == 0 else "model|tokenizer|config")
            told = name in done.text or "damaged" in done.text
            if not problem and done.code == 0 and not told and _answers(out / "generations.jsonl") != _answers_of(wanted):
                problem = "other answers, and nothing is said"
            yield Case(f"model/{name} {damage}, then eval", RULE, problem or judge(lab.run("report", run), (0, 1, 2)))
    for name in ("result.json", "environment.json", "metrics.jsonl", "generations.jsonl"):
        for damage in ("removed", "half", "list"):
            run = lab.copied(calm, "damaged")
            spoil(run / name, damage)
            problem = judge(lab.run("report", run), (0, 1, 2)) or judge(lab.run("compare", run, calm), (0, 1, 2))
            yield Case(f"{name} of a finished run {damage}, then report and compare", "a page or one message", problem)


def _answers(path: Path) -> list[str]:
    return _answers_of(path.read_text())


def _answers_of(text: str) -> list[str]:
    return [json.dumps(json.loads(line).get("response", json.loads(line).get("responses"))) for line in text.splitlines()]


def changed_identity(lab: Lab) -> Iterator[Case]:
    """An unfinished run goes on with another model, tokenizer, template, data or setting: refused, and what changed is named."""
    unfinished = lab.unfinished()
    model = Path(shutil.copytree(lab.model, lab.fresh("kept-model")))
    rows = lab.rows.read_text()

    def config(key: str, value: object) -> None:
        path = lab.model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    def other_token() -> None:
        path = lab.model / "tokenizer.json"
        path.write_text(path.read_text().replace('"Ġ', '"Ħ', 1))

    def other_weights() -> None:
        path = lab.model / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + bytes(byte ^ 1 for byte in content[len(content) // 2 :]))

    def truncated_weights() -> None:
        spoil(lab.model / "model.safetensors", "half")

    changes: dict[str, tuple[Callable[[], object], str, str]] = {
        "rms_norm_eps of the model": (lambda: config("rms_norm_eps", 1e-2), "", "model"),
        "rope_theta of the model": (lambda: config("rope_theta", 5.0), "", "model"),
        "the number of heads": (lambda: config("num_attention_heads", 2), "", "model"),
        "the tokenizer": (other_token, "", "tokenizer|model"),
        "the weights": (other_weights, "", "model"),
        "the weights cut": (truncated_weights, "", "model"),
        "a row of the data": (lambda: lab.rows.write_text(rows.replace("+", "-", 1)), "", "data|rows"),
        "the data emptied": (lambda: lab.rows.write_text(""), "", "row|empty|data"),
        **{
            f"--{setting}": (lambda: None, f"--{setting}", setting.split("=")[0].split(".")[1])
            for setting in (
                "train.lr=0.01",
                "train.seed=7",
                "train.num_steps=5",  # fewer: more steps make the run longer, which is said
                "train.optimizer=adamw-8bit",
                "data.seed=3",
                "data.test_size=0.3",
                "data.prompt=r1_zero",
                "eval.max_new_tokens=5",
                "eval.examples=3",
                "model.precision=bf16-mixed",
                "model.lora=lora",
                "train.loss_normalization=sequence",
                "data.max_length=64",
                "eval.temperature=0.5",
            )
        },
    }
    for what, (change, setting, named) in changes.items():
        run = lab.copied(unfinished, "changed")
        try:
            change()
            done = lab.run(*lab.train(run, *([setting] if setting else [])))
        finally:
            shutil.copytree(model, lab.model, dirs_exist_ok=True)
            lab.rows.write_text(rows)
        yield Case(f"goes on with {what} changed", "exit code 2, and what changed is named", judge(done, (2,), named=named))


KINDS: dict[str, Callable[[Lab], Iterator[Case]]] = {
    "run_files": run_files,
    "bit_flips": bit_flips,
    "caches": caches,
    "finished_runs": finished_runs,
    "changed_identity": changed_identity,
}
