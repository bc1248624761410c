"""`sample_problems`: a model answers problems several times, and the right answers become rows to train on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config
from tutelage.data import Example, Stops, encode_prompt
from tutelage.errors import InputError
from tutelage.evaluation.engine import Sampling
from tutelage.evaluation.sample.answers import Lines
from tutelage.evaluation.sample.ask import ask_here, unfinished
from tutelage.evaluation.sample.choose import chosen, duplicates
from tutelage.evaluation.sample.form import Form
from tutelage.evaluation.sample.totals import Totals
from tutelage.evaluation.sample.wanted import Wanted, check
from tutelage.evaluation.solve import sampling_of
from tutelage.evaluation.spread import settled
from tutelage.machines import fanout
from tutelage.model import identity_of, tokenizer_of
from tutelage.runs import checked_name, owned, to_lines, write_text, writing


def sample_problems(
    problems: Sequence[Example], config: Config, out: Path, wanted: Wanted, where: str = "local", workers: int = 2
) -> dict[str, Any]:
    """Let the model of a configuration answer each problem several times, and write what is right as rows to train on.

    Interrupted in any way, the same call goes on: what was answered is on the disk, and is not asked again. A call that has
    finished returns its summary.

    Args:
        problems: what is asked; each needs a reference.
        config: `eval` says how: temperature, top_p, max_new_tokens, stop, backend, reward, entropy. `eval.samples` and `eval.seed`
            do not count.
        out: the rows (JSONL). Beside it, by its stem: ``.samples.jsonl`` (every response), ``.ledger.jsonl`` (the fate of each)
            and ``.summary.json``.
        where: as `fanout.run_map`; on a cluster, `workers` jobs share the problems.

    Returns:
        The summary; docs/howto/own-answers.md explains its keys.

    Raises:
        InputError: the arguments contradict each other, `out` exists already and is of something else, or another process writes it.
        RunError: an engine failed twice at the same problems, or does not have the model's weights.
    """
    fanout.require(where)
    check(wanted, config.eval)
    files = Files.beside(checked_name(out, "--out"))
    problems = [problem for problem in problems if problem.reference]
    if not problems:
        raise InputError("no problem has a reference answer to compare responses with")
    with owned(out, new=False, parents=True):
        task = Task.of(problems, config, wanted)
        finished = files.finished(task)
        if finished is not None:
            return finished
        files.begin(task)
        task.answer(files, where, workers)
        return task.finish(files)


@dataclass(frozen=True)
class Files:
    """The files of one sampling, by the stem of its rows; what is unfinished has a folder of its own."""

    rows: Path
    samples: Path
    ledger: Path
    summary: Path
    folder: Path

    @staticmethod
    def beside(out: Path) -> Files:
        stem = out.name.removesuffix(".jsonl")
        names = ("samples.jsonl", "ledger.jsonl", "summary.json", "unfinished")
        return Files(out, *(out.with_name(f"{stem}.{name}") for name in names))

    @property
    def asked(self) -> Path:
        """What the unfinished answers depend on."""
        return self.folder / "asked.json"

    def finished(self, task: Task) -> dict[str, Any] | None:
        """The summary, where all is done. Raises InputError: it is of something else, or a file is in the way."""
        if self.summary.exists():
            summary: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
            if summary.get("asked") != task.asked | task.rule:
                raise InputError(f"{self.summary}: is of another model, other problems or settings; choose another --out")
            shutil.rmtree(self.folder, ignore_errors=True)
            return summary
        there = [path for path in (self.rows, self.samples, self.ledger) if path.exists()]
        if there and not self.asked.exists():
            raise InputError(f"{there[0]} exists and is not overwritten; remove it, or choose another --out")
        return None

    def begin(self, task: Task) -> None:
        """Make the folder of what is unfinished. Raises InputError: it holds answers to something else."""
        if self.asked.exists():
            then = json.loads(self.asked.read_text(encoding="utf-8"))
            changed = [key for key in task.asked if then.get(key) != task.asked[key]]
            if changed:
                raise InputError(
                    f"{self.folder}: holds answers that were asked for with another {', '.join(changed)}; go on as it was begun,"
                    " remove it, or choose another --out"
                )
            return
        self.folder.mkdir(exist_ok=True)
        write_text(self.asked, json.dumps(task.asked))


@dataclass(frozen=True)
class Task:
    """What is asked, and all that its answers depend on.

    Attributes:
        config: with the backend settled.
        prompts: of each problem, as a row says it.
        longest: prompt + response in tokens, at most.
        weights: a hash of the model's weights.
        asked: what answers depend on; `rule`: what else the rows depend on. As JSON has them.
    """

    problems: Sequence[Example]
    config: Config
    wanted: Wanted
    sampling: Sampling
    form: Form
    longest: int
    weights: str
    asked: dict[str, Any]
    rule: dict[str, Any]

    @staticmethod
    def of(problems: Sequence[Example], config: Config, wanted: Wanted) -> Task:
        evaluation = settled(config.eval).model_copy(update={"samples": wanted.samples, "seed": wanted.seed, "log_tokens": False})
        config = config.model_copy(update={"eval": evaluation})
        tokenizer = tokenizer_of(config)
        form, sampling = Form.of(config, tokenizer), sampling_of(evaluation, Stops.of(tokenizer))
        digest, longest = hashlib.sha256(), 0
        for problem in problems:
            form.prompt_of(problem)
            longest = max(longest, len(encode_prompt(tokenizer, problem.prompt)))
            digest.update(repr((problem.prompt, problem.reference)).encode("utf-8", "backslashreplace"))
        files = identity_of(config.model.id)["files"]
        weights = {name: each["sha256"] for name, each in files.items() if name.endswith(".safetensors")}
        asked = {
            "model": config.model.id, "files": _hash({name: each["sha256"] for name, each in files.items()}),
            "problems": digest.hexdigest(), "sampling": json.loads(json.dumps(asdict(sampling))), "reward": evaluation.reward,
            "precision": config.model.precision, "entropy": evaluation.entropy, "template": form.template.text,
        }  # fmt: skip
        return Task(
            problems,
            config,
            wanted,
            sampling,
            form,
            longest + evaluation.max_new_tokens,
            _hash(weights),
            asked,
            {"rule": asdict(wanted)},
        )

    def answer(self, files: Files, where: str, workers: int) -> None:
        """Ask what is not answered yet."""
        lines = Lines(files.folder / "answers.jsonl", len(self.problems))
        left = unfinished(lines, len(self.problems))
        samples = self.wanted.samples
        total = len(self.problems) * samples
        with console.progress(f"sampling {len(self.problems)} problems", total, total - len(left) * samples) as advance:
            meter = Meter(advance)

            def keep(found: Sequence[dict[str, Any]], seconds: float) -> None:
                lines.add(found, seconds)
                meter.accept(sum(each["fate"] == "right" for line in found for each in line["responses"]))

            if left:
                ask_here(self.problems, left, self.config, self.longest, files.folder, keep, meter)

    def finish(self, files: Files) -> dict[str, Any]:
        """Write rows, responses and fates, problem by problem, and the summary at last."""
        lines = Lines(files.folder / "answers.jsonl", len(self.problems))
        totals = Totals(self.wanted.samples)
        with contextlib.ExitStack() as stack:
            rows, samples, ledger = (stack.enter_context(writing(path)) for path in (files.rows, files.samples, files.ledger))
            for index, problem in enumerate(self.problems):
                responses = lines.read(index)["responses"]
                same = duplicates(responses)
                for duplicate, original in same.items():
                    responses[duplicate] |= {"fate": "duplicate", "why": f"says what sample {original} says"}
                kept = chosen(responses, index, self.wanted)
                totals.add(responses, kept)
                prompt = self.form.prompt_of(problem)
                rows.write(to_lines(self._row(problem, prompt, responses[each], each) for each in kept))
                for each, response in enumerate(responses):
                    at = {"source": problem.source, "problem": index, "sample": each}
                    samples.write(
                        to_lines([{**at, "prompt": prompt, "reference_answer": _as_json(problem.reference), **response}])
                    )
                    fate = {"fate": response["fate"], "why": response["why"], "kept": each in kept}
                    ledger.write(to_lines([{**at, **fate}]))
        summary = {
            **totals.summary(),
            "seconds": round(lines.seconds, 1),
            "out": str(files.rows),
            "asked": self.asked | self.rule,
        }
        write_text(files.summary, json.dumps(summary, indent=2) + "\n")
        shutil.rmtree(files.folder, ignore_errors=True)
        return summary

    def _row(self, problem: Example, prompt: str, response: dict[str, Any], sample: int) -> dict[str, Any]:
        sampling = self.sampling
        return {
            "prompt": prompt,
            "response": response["response"],
            "reference_answer": _as_json(problem.reference),
            "provenance": {
                "model": self.config.model.id, "weights": self.weights, "backend": self.config.eval.backend,
                "temperature": sampling.temperature, "top_p": sampling.top_p, "max_new_tokens": sampling.max_new_tokens,
                "seed": sampling.seed, "source": problem.source, "sample": sample, "log_prob": response["log_prob"],
                "length": len(response["token_ids"]), "token_entropy": response["token_entropy"], "verdict": response["fate"],
                "ids_differ": response["ids_differ"],
            },
        }  # fmt: skip


class Meter:
    """Advances a bar, and says with it how many responses were accepted, and how many a minute."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance, self.accepted, self.started = advance, 0, time.monotonic()

    def __call__(self, count: int) -> None:
        minutes = max(time.monotonic() - self.started, 1e-3) / 60
        note = f"{self.accepted} accepted, {self.accepted / minutes:.0f} a minute" if self.accepted else ""
        self.advance(count, note)

    def accept(self, count: int) -> None:
        self.accepted += count
        self(0)


def _as_json(reference: Any) -> Any:
    return list(reference) if isinstance(reference, tuple) else reference


def _hash(values: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
