"""What is asked, and all that answers and rows depend on: found before any compute is spent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tutelage.config import Config
from tutelage.data import BadRow, Example, Fate, Stops, encode_prompt
from tutelage.errors import InputError
from tutelage.evaluation.engine import Sampling
from tutelage.evaluation.sample.form import Form
from tutelage.evaluation.sample.wanted import Wanted
from tutelage.evaluation.solve import sampling_of
from tutelage.evaluation.spread import settled
from tutelage.model import identity_of, tokenizer_of

WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class Task:
    """What is asked, and how.

    Attributes:
        problems: that are asked.
        left_out: the fates of those that are not.
        config: with the backend settled, and `eval.samples` and `eval.seed` as they are wanted.
        longest: prompt + response in tokens, at most.
        weights: a hash of the model's weights.
        asked: what answers depend on; `rule`: what else the rows depend on. Both as JSON has them.
    """

    problems: Sequence[Example]
    left_out: Sequence[Fate]
    config: Config
    wanted: Wanted
    sampling: Sampling
    form: Form
    longest: int
    weights: str
    asked: dict[str, Any]

    @property
    def rule(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self.wanted).items() if name not in ("samples", "seed")}


def task_of(problems: Sequence[Example], config: Config, wanted: Wanted, left_out: Sequence[Fate]) -> Task:
    """Raises InputError: no problem has a reference; or a prompt is one that no row can hold, and that is not allowed."""
    evaluation = settled(config.eval).model_copy(update={"samples": wanted.samples, "seed": wanted.seed, "log_tokens": False})
    config = config.model_copy(update={"eval": evaluation})
    tokenizer = tokenizer_of(config)
    form = Form.of(config, tokenizer)
    fates, asked, longest, digest = list(left_out), [], 0, hashlib.sha256()
    for problem in problems:
        fate = _fate_of(problem, form, config.data.on_bad_row)
        if fate is not None:
            fates.append(fate)
            continue
        asked.append(problem)
        longest = max(longest, len(encode_prompt(tokenizer, problem.prompt)))
        digest.update(repr((problem.prompt, problem.reference)).encode("utf-8", "backslashreplace"))
    if not asked:
        reason = f"; {fates[0].source}: {fates[0].fate}, {fates[0].why}" if fates else ""
        raise InputError(f"there is no problem to ask{reason}")
    sampling = sampling_of(evaluation, Stops.of(tokenizer))
    files = {name: each["sha256"] for name, each in identity_of(config.model.id)["files"].items()}
    depends_on = {
        "model": _hash(files), "problems": digest.hexdigest(), "prompt": _hash({"template": form.template.to_json()}),
        **_as_json(asdict(sampling)), "reward": evaluation.reward, "precision": config.model.precision, "entropy": evaluation.entropy,
    }  # fmt: skip
    weights = _hash({name: value for name, value in files.items() if name.endswith(WEIGHTS)})
    longest += evaluation.max_new_tokens
    return Task(asked, fates, config, wanted, sampling, form, longest, weights, depends_on)


def _fate_of(problem: Example, form: Form, on_bad_row: str) -> Fate | None:
    """Why a problem is not asked; None if it is. Raises InputError: no row can hold its prompt, and that is not allowed."""
    if not problem.reference:
        return Fate(problem.source, "no reference", "there is no answer to compare responses with")
    try:
        form.prompt_of(problem)
    except BadRow as bad:
        if on_bad_row == "error":
            raise InputError(f'{problem.source}: {bad}; mend the row, or set data.on_bad_row = "skip"') from None
        return Fate(problem.source, "malformed", str(bad))
    return None


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The same values as they come back from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def _hash(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
