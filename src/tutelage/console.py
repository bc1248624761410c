"""What a person sees: lines, tables, and progress bars with time left; plain lines when the output is not a terminal."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text


class Advance(Protocol):
    """Tells a progress bar that `count` more are done."""

    def __call__(self, count: int, note: str = "") -> None: ...


PLAIN_EVERY_SECONDS = 10.0
NARROW = 100
"""A terminal of fewer columns has bars without the time that has passed."""
COPIED = re.compile(r"(tutelage|pip install|export) |[\w.]+ = |--\w+\.\w+[ =]\S")
"""How a line begins that a reader copies, a command or a setting: it is not broken, so that it is copied as one line."""

CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
"""Of the first 256 characters, those that move the cursor, ring, colour, or name a window; a line end and a tab are harmless."""
BIDI = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
"""Characters that turn the direction of what follows, and Unicode's own line ends."""
_ESCAPED = {code: f"\\u{code:04x}" for code in (*CONTROLS, *BIDI) if chr(code) not in "\n\t"}
_ESCAPED |= {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}  # half a pair: no encoding has it

_bars: Progress | None = None
_muted = False
_quiet = False
_lines: TextIO | None = None


def printable(text: str) -> str:
    """A text as a terminal may get it: what would steer the terminal is written out, as JSON escapes it.

    File names and data are not ours, and a terminal obeys whoever writes to it. All that is printed goes through here.
    """
    return text.translate(_ESCAPED)


def _printable(text: str | Text) -> str | Text:
    if isinstance(text, str):
        return printable(text)
    pieces = text.render(Console(file=io.StringIO()), end="")
    return Text.assemble(*((printable(piece.text), piece.style or "") for piece in pieces))


def out(text: str) -> None:
    """A line on standard output that belongs to nobody's layout: a path, an answer, a document."""
    print(printable(text), flush=True)


def stream(text: str) -> None:
    """A part of a line on standard output, which somebody reads while it grows."""
    print(printable(text), end="", flush=True)


def complain(text: str) -> None:
    """A line on standard error, or several; a terminal gets them broken between words."""
    said = printable(text)
    print(fitted(said, columns()).plain if sys.stderr.isatty() else said, file=sys.stderr, flush=True)


def mute() -> None:
    """Say nothing from here on: another rank speaks for all."""
    global _muted
    _muted = True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, nothing is said but what has a style: warnings and failures."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


@contextlib.contextmanager
def lines_to(stream: TextIO) -> Iterator[None]:
    """Within it, each line of a run's metrics is written to a stream too."""
    global _lines
    before, _lines = _lines, stream
    try:
        yield
    finally:
        _lines = before


def metrics_line(text: str) -> None:
    """A line of a run's metrics as it stands in its file, for whoever reads them as they come (`lines_to`)."""
    if _lines is not None and not _muted:
        print(text, end="", file=_lines, flush=True)


def _console() -> Console:
    # made anew each time, so that a redirected sys.stdout is respected; the terminal wraps long lines
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, highlight=False, soft_wrap=True, width=None if terminal else 120)


def say(text: str | Text = "", style: str | None = None, indent: str = "") -> None:
    """One line, or several; where it has no style, it is no warning, and a quiet command leaves it out.

    A terminal gets lines that are broken between words (`fitted`); a file, or another program, gets its lines as they are.

    Args:
        indent: as `fitted`.
    """
    if _muted or (_quiet and style is None):
        return
    console = _bars.console if _bars is not None else _console()
    said = _printable(text)
    console.print(fitted(said, columns(), indent) if sys.stdout.isatty() else said, style=style, markup=False)


def columns() -> int:
    """The width of the terminal, as COLUMNS or the terminal says it; 80 where there is none."""
    return shutil.get_terminal_size().columns


def fitted(text: str | Text, width: int, indent: str = "") -> Text:
    """A text in lines of at most `width` cells, broken between words. A longer word, and a line to copy, stay whole.

    Args:
        indent: of the lines that a line is continued in; "": as that one is indented.
    """
    lines = []
    for line in (Text(text) if isinstance(text, str) else text).split("\n", allow_blank=True):
        start = len(line.plain) - len(line.plain.lstrip())
        if line.cell_len <= width or COPIED.match(line.plain, start):
            lines.append(line)
            continue
        before = Text(indent) if indent else line[:start]
        room = max(width // 2, width - max(start, len(before)))
        first, *others = line[start:].divide(_breaks(line.plain[start:], room))
        lines += [line[:start] + first, *(before + other for other in others)]
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _breaks(text: str, width: int) -> list[int]:
    """Where lines begin, after the first one, that hold so many cells at most."""
    offsets, used = [], 0
    for word in re.finditer(r"\s*\S+\s*", text):
        if used and used + cell_len(word[0].rstrip()) > width:
            offsets.append(word.start())
            used = 0
        used += cell_len(word[0])
    return offsets


def is_narrower_than(line: str) -> bool:
    """Whether the output is a terminal that would break a line."""
    return sys.stdout.isatty() and columns() < len(line)


def paragraph(text: str, indent: str = "") -> None:
    """`say` line by line; `indent` as `fitted`."""
    for line in text.splitlines():
        say(line, indent=indent)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; the first column is text, the others are aligned to the right."""
    if _muted or _quiet:
        return
    console = _bars.console if _bars is not None else _console()
    cells = [[printable(str(cell)) for cell in row] for row in (columns, *rows)]
    made = Table(title=escape(printable(title)), title_justify="left", title_style="bold")
    for index, (name, width) in enumerate(zip(cells[0], column_widths(cells, console.width), strict=False)):
        made.add_column(escape(name), justify="left" if index == 0 else "right", overflow="fold", width=width)
    for row in cells[1:]:
        made.add_row(*map(escape, row))
    console.print(made, soft_wrap=False)


def column_widths(cells: Sequence[Sequence[str]], width: int) -> list[int | None]:
    """How wide each column of a table is, so that no word is broken: the widest column gives way first, down to its longest word.

    Args:
        cells: by row.
        width: of the table; each column has three characters of border and padding beside its text, and one closes the row.

    Returns:
        None for each column where all of them have their room, or where the longest words alone have none.
    """
    by_column = list(itertools.zip_longest(*cells, fillvalue=""))
    wanted = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in by_column]
    least = [max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in by_column]
    room = width - 3 * len(wanted) - 1
    if sum(wanted) <= room or sum(least) > room:
        return [None] * len(wanted)
    given = list(wanted)
    while sum(given) > room:
        widest = max((index for index in range(len(given)) if given[index] > least[index]), key=given.__getitem__)
        given[widest] -= 1
    return list(given)


@contextlib.contextmanager
def progress(what: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
    """A wait with a bar; yields ``advance(count, note)``. A total of None is a wait of unknown length. Waits may be nested.

    `done` says how many of the total were done before.
    """
    if _muted or _quiet:
        yield lambda count, note="": None
        return
    what = printable(what)
    bars = _rich_progress(what, total, done) if sys.stdout.isatty() else _plain_progress(what, total, done)
    with bars as advance:
        yield advance


@contextlib.contextmanager
def _rich_progress(what: str, total: int | None, done: int) -> Iterator[Advance]:
    global _bars
    outermost = _bars is None
    if _bars is None:
        console = _console()
        passed = [] if console.width < NARROW else [TimeElapsedColumn(table_column=Column(no_wrap=True))]
        bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),  # gives way where the others leave no room
            TextColumn("{task.fields[count]}"),
            *passed,
            TextColumn("{task.fields[left]}"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}"),
            transient=True,
            console=console,
        )
    else:
        bars = _bars
    if outermost:
        _bars = bars
        bars.start()
    task = bars.add_task(
        escape(what), total=total, completed=done, count=f"{done}/{total}" if total else "", left="left" if total else "", note=""
    )
    over = False
    try:

        def advance(count: int, note: str = "") -> None:
            nonlocal done
            done += count
            if not over:  # another thread may advance the bar too late
                bars.update(task, completed=done, count=f"{done}/{total}" if total else "")
                if note:  # else the last one stays
                    bars.update(task, note=escape(printable(note)))

        yield advance
    finally:
        over = True
        bars.remove_task(task)
        if outermost:
            bars.stop()
            _bars = None


@contextlib.contextmanager
def _plain_progress(what: str, total: int | None, done: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    before = done

    def advance(count: int, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if total and now - last >= PLAIN_EVERY_SECONDS:
            # the first few that finish say little about the rest: no forecast from less than a tenth
            new = done - before
            left = f", {duration((now - start) / new * (total - done))} left" if new >= (total - before) / 10 else ""
            print(f"{what}: {done}/{total}{left}{'  ' + printable(note) if note else ''}", flush=True)
            last = now

    yield advance
    if time.monotonic() - start >= 1:
        print(f"{what}: done in {duration(time.monotonic() - start)}", flush=True)


def per_second(advance: Advance, unit: str) -> Callable[[int], None]:
    """Takes how many more of a unit there are, and notes at a bar how many those are in a second: a sign of life between its steps."""
    started, count = time.monotonic(), 0

    def more(units: int) -> None:
        nonlocal count
        count += units
        advance(0, f"{count:,} {unit}, {count / max(time.monotonic() - started, 1e-3):,.0f} a second")

    return more


def duration(seconds: float) -> str:
    """``7 s``, ``3 min 20 s``, ``2 h 05 min``."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, rest = divmod(rounded, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def within(share: float, low: float, high: float, digits: int = 0) -> str:
    """``71.9 % [60–81]``: a share and its interval, whose ends have `digits` decimals."""
    return f"{percent(share)} [{100 * low:.{digits}f}–{100 * high:.{digits}f}]"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def quiet_libraries() -> None:
    """Silence the progress bars of libraries, and the remarks of packages that libraries import where they are installed."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # at each checkpoint of a single process
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity_error()
