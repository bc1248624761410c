"""A run directory: its files, its checkpoints, and what is read back of it."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.runs import checkpoint, results, tracking
    from tutelage.runs.checkpoint import Checkpoints
    from tutelage.runs.compare import as_json, compare_runs
    from tutelage.runs.readings import DIGITS, LEVELS_PER_OCTAVE, Reading, of_all_problems, read_run, score
    from tutelage.runs.results import Found, is_sweep
    from tutelage.runs.runlog import (
        RunLog,
        append_lines,
        changes,
        environment,
        locked,
        open_run,
        read_lines,
        refuse_to_overwrite,
        to_lines,
        training_and_waiting,
        write_text,
        writing,
    )

__getattr__, __dir__, __all__ = lazily(__name__)
