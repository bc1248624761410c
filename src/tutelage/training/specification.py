"""The specification's `train_one_size`: a point of the size curve, trained from a script."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tutelage.config import Config, as_config, parse_config
from tutelage.errors import InputError
from tutelage.training.loop import Result, fine_tune


def train_one_size(
    subset: int | None = None,
    filtered: bool | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    run_dir: str | Path | None = None,
    allow_changes: Collection[str] = (),
    **unknown: Any,
) -> Result:
    """Fine-tune on `subset` training rows, and evaluate while training: what ``tutelage train`` does, from a script.

    The same call goes on with a run that was stopped. Under torchrun, this is one rank of the run. The call needs no
    ``if __name__ == "__main__":``: no process that it starts runs the script again.

    Args:
        subset: how many rows are trained on, as `data.size`: drawn from the rows that are left after hold-out and filter, smaller
            subsets inside larger ones. None: as the configuration says, which is all rows by default.
        filtered: whether only rows whose response reaches the reference answer are trained on, as `data.filter`. None: as the
            configuration says, which is true by default.
        config: a `Config`, the path of a TOML file, or a dict of settings, ``{"train": {"lr": 1e-4}}`` or ``{"train.lr": 1e-4}``.
            None: the defaults, which are the embedded model on the built-in task.
        run_dir: the run directory, as `run.dir`. None: the configuration's `run.dir`; where it names none, ``runs/tutelage`` with
            `subset` and `filtered` in its name (``runs/tutelage-512-filtered``), so that each point of a curve has its own.
        allow_changes: settings ("train.lr") in which the configuration may differ from that of the unfinished run.

    Returns:
        The run's `directory`, its `evaluations` (as in ``metrics.jsonl``, oldest first), its `steps`, and its `evaluation_cost`.

    Raises:
        InputError: something given is wrong; nothing was computed.
        RunError: the run could not go on.
        Interrupted: Ctrl-C, or, as Preempted, SIGTERM or SIGUSR1; the state was saved.
    """
    _refuse_the_old_order(subset, filtered, unknown)
    if filtered is not None and not isinstance(filtered, bool):
        raise InputError(f"filtered is {filtered!r}; it is True, False, or None (as the configuration says)")
    rows = _rows(subset)
    chosen = as_config(config)
    settings: dict[str, Any] = {"data": {}, "run": {}}
    if rows is not None:
        settings["data"]["size"] = rows
    if filtered is not None:
        settings["data"]["filter"] = filtered
    if run_dir is not None:
        settings["run"]["dir"] = os.fspath(run_dir)
    elif "dir" not in chosen.run.model_fields_set:
        settings["run"]["dir"] = _named(chosen.run.dir, rows, filtered)
    raw = chosen.model_dump()
    return fine_tune(
        parse_config(raw | {section: raw[section] | changed for section, changed in settings.items()}), allow_changes=allow_changes
    )


def _refuse_the_old_order(subset: Any, filtered: Any, unknown: Mapping[str, Any]) -> None:
    """Raises InputError for ``train_one_size(config, size)``, as it was called before, and for a keyword that there is not."""
    first = isinstance(subset, Config | Mapping | str | os.PathLike)
    if not first and not isinstance(filtered, Config | Mapping | str | os.PathLike) and not unknown:
        return
    size = unknown.get("size", filtered if first else subset)
    given = f"has no argument {next(iter(unknown))!r}" if unknown and not first else "takes the number of training rows first"
    example = size if isinstance(size, int) and not isinstance(size, bool) else 512
    raise InputError(f"train_one_size {given}, and the configuration by its name: train_one_size({example}, config=…)")


def _rows(subset: Any) -> int | None:
    if subset is None:
        return None
    rows = operator.index(subset) if hasattr(subset, "__index__") and not isinstance(subset, bool) else 0
    if rows < 1:
        raise InputError(f"subset is {subset!r}; it is a number of training rows, at least 1 (None: all of them)")
    return rows


def _named(directory: str, rows: int | None, filtered: bool | None) -> str:
    parts = [directory, *([] if rows is None else [str(rows)]), *([] if filtered is None else ["filtered" if filtered else "raw"])]
    return "-".join(parts)
