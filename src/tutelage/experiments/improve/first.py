"""Round 0 where a model is given: it is evaluated as it is, into a directory like that of `tutelage eval`."""

from __future__ import annotations

import json
from pathlib import Path

from tutelage import console
from tutelage.config import replaced, to_toml
from tutelage.evaluation import Job, settled, solve_here, summarize
from tutelage.experiments.improve.ground import Ground
from tutelage.model import resolve, tokenizer_of
from tutelage.runs import describe_environment, to_lines, write_text


def resolved_start(name: str) -> str:
    """The model that ``--start`` names: a run's own, or a model. Raises InputError: there is no such model."""
    path = Path(name)
    model = str(path / "model") if (path / "config.toml").is_file() and (path / "model").is_dir() else name
    resolve(model)
    return model


def evaluate_start(ground: Ground, directory: Path) -> None:
    """Let the model that was given solve the held-out problems; the summary is written last, and says that this is done."""
    config = replaced(ground.config, {"model.id": ground.wished.start})
    solving = config.model_copy(update={"eval": settled(config.eval)})
    problems = ground.validated_on
    job = Job.of(problems, tokenizer_of(config), solving.eval)
    directory.mkdir(exist_ok=True)
    with console.progress(f"solving {len(problems)} held-out problems", job.responses) as advance:
        solved = solve_here(job, solving, directory, advance)
    write_text(directory / "settings.toml", to_toml(config))
    write_text(directory / "prompt.txt", ground.template.text)
    write_text(directory / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")
    write_text(directory / "generations.jsonl", to_lines(solved.records))
    summary = {
        "model": ground.wished.start, "data": f"the held-out problems of {ground.config.data.in_words}", "backend": solving.eval.backend,
        **summarize(solved.records, solved.entropy), "certificates": [proof.as_dict() for proof in solved.certificates],
    }  # fmt: skip
    write_text(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
