"""One self-contained page of a run, of several runs, of a sweep or of rounds: it opens offline, and asks no server for anything."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import re
import time
from collections.abc import Sequence
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.errors import InputError
from tutelage.report import facts, figures, of_improve, of_runs, of_sweep
from tutelage.runs import damage, finite, is_improvement, is_sweep, read_run, results, rounds, write_text

LARGEST = 15_000_000
"""Bytes of a page at most; more generations are split over several."""
WATCHED = ("metrics.jsonl", "generations.jsonl", "result.json", "sweep.json", "improve.json")
SCRIPTS = ("curves.js", "problems.js", "problem.js", "page.js")
"""The page's script, in the order in which its parts stand; the last one begins."""
POLL = 2.0
"""Seconds between two looks at whether a watched run has got on."""
BREAK = 10
"""Between two pages, the break is so many times as long as the writing of one took: the cores are for training."""


def write(
    directory: str | Path,
    out: Path | None = None,
    *,
    price_per_hour: float | None = None,
    currency: str | None = None,
    live: bool = False,
    largest: int = LARGEST,
) -> Path:
    """Write the page of a run, an evaluation, a sweep or rounds of `tutelage improve`; its path.

    Args:
        out: default: ``report.html`` in the directory. Where one page would be too large, the others lie beside it, numbered.
        price_per_hour: what an hour of the machine costs; default: `run.price_per_hour` of the run.
        currency: what that costs is in; default: `run.currency` of the run.
        live: let the page load itself again every few seconds.
        largest: bytes of a page at most.

    Raises:
        InputError: there is no run in that directory.
        RunError: the page cannot be written.
    """
    directory = Path(directory)
    page = out or directory / "report.html"
    if is_sweep(directory) or is_improvement(directory):
        of, template = (of_sweep, "sweep.html") if is_sweep(directory) else (of_improve, "improve.html")
        content = of.content(directory, page, price_per_hour)
        content["currency"] = currency or content["currency"]
        write_text(page, _render(template, content, live))
        return page
    reading = read_run(directory)
    if not reading.lines and not reading.finished and not live:
        raise InputError(f"{directory}: nothing is logged there yet; --watch waits for it")
    if not live:
        damage.say(reading.faults, directory)
    content = facts.of_run(reading, price_per_hour)
    content["currency"] = currency or content["currency"]
    content["figures"] = figures.of_run(reading)
    content["histogram"] = figures.lengths_histogram(content["data"])
    generations = facts.generations(reading)
    pages = _parts(page, "run.html", content, generations, live, largest)
    for old in directory.glob("report-[0-9]*.html") if out is None else ():
        old.unlink()  # of an earlier, longer report; elsewhere such a file may be anybody's
    _write_all(pages)
    return page


def write_beside(
    names: Sequence[str], page: Path, *, price_per_hour: float | None = None, currency: str | None = None
) -> Path:
    """Write the page of several runs beside each other; its path. The first run is what the others are compared with.

    Args:
        names: run directories, or directories of `tutelage eval`; ``RUN@STEP`` for another evaluation than the last.

    Raises:
        InputError: as `of_runs.content`.
        RunError: the page cannot be written.
    """
    content = of_runs.content(names, page, price_per_hour, currency)
    _write_all(_parts(page, "compare.html", content, content.pop("generations"), False, LARGEST))
    return page


def _parts(
    page: Path, template: str, content: dict[str, Any], generations: dict[str, Any], live: bool, largest: int
) -> dict[Path, str]:
    """The text of each page, by its path: as few pages as stay below `largest` bytes each."""
    problems = generations.pop("problems")
    count, size = 1, 0
    while size == 0 or size > largest:
        pages = _pages(page, template, content, generations, split(problems, count), live)
        size = max(len(text.encode()) for text in pages.values())
        if count >= len(problems):
            break
        count = max(count + 1, -(-count * size // largest))
    return pages


def _write_all(pages: dict[Path, str]) -> None:
    for path, text in pages.items():
        write_text(path, text)
    if len(pages) > 1:
        console.say(f"the generations are split over {len(pages)} pages, each below {LARGEST / 1e6:.0f} MB")


def _pages(
    page: Path, template: str, content: dict[str, Any], generations: dict[str, Any], parts: Sequence[list[Any]], live: bool
) -> dict[Path, str]:
    """The text of each page, by its path."""
    paths = [page, *(page.with_name(f"{page.stem}-{number}{page.suffix}") for number in range(2, len(parts) + 1))]
    starts = [0, *accumulate(map(len, parts))]
    pages = {}
    for path, problems, start in zip(paths, parts, starts, strict=False):
        links = [
            {"name": other.name, "this": other == path, "start": first, "problems": len(part)}
            for other, part, first in zip(paths, parts, starts, strict=False)
        ]
        shown = {"generations": generations | {"problems": problems, "parts": links, "start": start}, "parts": links}
        pages[path] = _render(template, content | shown, live)
    return pages


def split(problems: list[Any], count: int) -> list[list[Any]]:
    """The problems in `count` parts, in their order, of about as many characters each."""
    sizes = [len(json.dumps(problem, ensure_ascii=False)) for problem in problems]
    parts: list[list[Any]] = [[] for _ in range(count)]
    so_far, total = 0, max(1, sum(sizes))
    for problem, size in zip(problems, sizes, strict=True):
        parts[min(count - 1, so_far * count // total)].append(problem)
        so_far += size
    return [part for part in parts if part] or [[]]


def watch(
    directory: str | Path, out: Path | None = None, *, price_per_hour: float | None = None, currency: str | None = None
) -> Path:
    """Write the page again whenever the run gets on, until it is finished (or Ctrl-C)."""
    directory = Path(directory)
    page, seen, took = out or directory / "report.html", None, 0.0
    console.say(f"open {page}; it is written, and loads itself, again while the run goes on (Ctrl-C ends this)")
    try:
        while True:
            now = _state(directory)
            if now != seen:
                seen, started = now, time.monotonic()
                finished = (rounds if is_improvement(directory) else results).is_finished(directory)
                write(directory, out, price_per_hour=price_per_hour, currency=currency, live=not finished)
                if finished:
                    return page
                took = time.monotonic() - started
            time.sleep(max(POLL, BREAK * took))
    except KeyboardInterrupt:
        return write(directory, out, price_per_hour=price_per_hour, currency=currency)


def _state(directory: Path) -> list[tuple[str, int, int]]:
    files = [directory / name for name in WATCHED]
    files += sorted(directory.glob("trials/*/result.json")) if is_sweep(directory) else []
    files += sorted(directory.glob("round-*/result.json")) if is_improvement(directory) else []
    return [(str(file), (found := file.stat()).st_mtime_ns, found.st_size) for file in files if file.is_file()]


def packed(value: Any) -> str:
    """JSON (or text), compressed, as text that can stand in a page: nothing in it can end a script."""
    text = value if isinstance(value, str) else json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), 6, mtime=0)).decode()


@functools.cache
def _plotly() -> str:
    """Plotly's script, packed: a quarter of its size."""
    return packed((resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8"))


def money(amount: float, currency: str | None, form: str = "{:.2f}") -> str:
    """An amount of money: a symbol of a currency stands before it, its letters behind it."""
    said = form.format(amount)
    if not currency:
        return said
    return f"{said} {currency}" if currency[-1].isalnum() else f"{currency}{said}"


def _breakable(text: str) -> Any:
    """A setting or a path as markup that a line may break after a dot, a slash or an underscore."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._/])(?=[^\W\d])", r"\1<wbr>", str(escape(text))))


def _own(name: str) -> str:
    return (resources.files("tutelage.report") / name).read_text(encoding="utf-8")


def _render(template: str, content: dict[str, Any], live: bool) -> str:
    """A page from its template. Whatever comes from data is escaped: by Jinja, or packed and set as text by the script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tutelage.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "money": money, "price": functools.partial(money, form="{:g}")}
    drawn = [figure for figure in [*content["figures"], content.get("histogram")] if figure]
    payload = {"figures": drawn, "generations": content.get("generations")}
    return environment.get_template(template).render(
        **content, live=live, payload=packed(payload), plotly=_plotly(), style=_own("page.css"), script="\n".join(map(_own, SCRIPTS)),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip
