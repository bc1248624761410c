"""A run directory: its files, its checkpoints, and what is read back of it."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.runs import checkpoint, damage, results, rounds, tracking, verdicts
    from tutelage.runs.checkpoint import Checkpoints
    from tutelage.runs.compare import Side, as_json, compare_runs, difference_of, kinds_of, pair, side, verdict_of
    from tutelage.runs.environment import describe_environment
    from tutelage.runs.files import append_lines, finite, locked, to_lines, write_text, writing
    from tutelage.runs.identity import changes_of_model, refuse_another_model
    from tutelage.runs.log import RunGone, RunLog, SilentRunLog, changes, kept_template, open_run, refuse_to_overwrite
    from tutelage.runs.owner import checked_name, owned
    from tutelage.runs.reading import (
        DIGITS,
        LEVELS_PER_OCTAVE,
        Reading,
        aligned,
        of_all_problems,
        read_run,
        shown_accuracy,
    )
    from tutelage.runs.records import read_records
    from tutelage.runs.results import Found, is_sweep
    from tutelage.runs.rounds import is_improvement

__getattr__, __dir__, __all__ = lazily(__name__)
