"""Benchmarks by name: where the rows of each are published, how they are read, and how often a question is asked.

The hub was not in reach. What the entries say was read on 28 November 2026 in stored copies of lm-evaluation-harness (4e7e0d4),
lighteval (3fd1526), Qwen2.5-Math (a45202b), evalchemy (6ed6741) and matharena (e927660), of pages of the hub, and of code and notes of
others. No revision stands here that was not read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import DataConfig, Source
from tutelage.data.shapes.parsed import BadRow, holds
from tutelage.data.shapes.references import checked_reference
from tutelage.data.sources.files import KINDS, PACKED, kind_of, stem_of
from tutelage.data.sources.source import unread_files
from tutelage.errors import InputError, some_of

FEW = 40
"""Up to so many questions, each is asked `SAMPLES` times."""
SAMPLES = 16
TEMPERATURE = 0.6
"""For questions that are asked several times, where `eval.temperature` is 0."""
NAMED = 8
"""Files of a folder that a message names; the others are counted."""
PROBLEM = {"prompt": "problem", "reference": "answer"}
QUESTION = {"prompt": "question", "reference": "answer"}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        hub, revision: the data set of the hub; None: its newest revision.
        split, hub_config, columns, shape: as in `Source`. Rows without these columns are recognised by the names that they have.
        questions: how many there are.
        tolerance: as `eval.tolerance`.
        other_splits: names that copies on the disk give to the split; they go before `split` there.
        read_in: where hub name, split and columns were read.
        unverified: what of the entry was not seen at its source; "" if all was.
    """

    name: str
    hub: str
    split: str
    questions: int
    read_in: str
    revision: str | None = None
    hub_config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    shape: str = "auto"
    tolerance: float = 0.0
    other_splits: tuple[str, ...] = ()
    unverified: str = ""

    @property
    def samples(self) -> int:
        """Responses to each question."""
        return SAMPLES if self.questions <= FEW else 1

    @property
    def pinned(self) -> str:
        """The data set as `data.train` names it."""
        return f"{self.hub}@{self.revision}" if self.revision else self.hub


def olympiad_row(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row of OlympiadBench: a question with the context before it, all final answers as one list; None: it cannot be graded.

    Left out are questions with images, which a language model is not shown, and those without a final answer (proofs).
    """
    answers = row.get("final_answer")
    if not holds(answers) or any(holds(value) for name, value in row.items() if name.startswith("image")):
        return None
    each = [answers] if isinstance(answers, str) else list(answers or ())
    asked = [str(row.get(name)).strip() for name in ("context", "question") if holds(row.get(name))]
    return {"prompt": "\n\n".join(asked), "reference": ", ".join(str(answer).strip() for answer in each)}


def minerva_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of Minerva's problems of OpenCourseWare: the answer in its column, else in the box of the solution.

    Some answers are Python (``np.arcsin(10/13)``) or hold single dollar signs; both are notation.
    """
    question = next((row.get(name) for name in ("problem", "question") if holds(row.get(name))), None)
    answer = next((row.get(name) for name in ("answer", "solution") if holds(row.get(name))), None)
    reference = checked_reference(answer)
    if not isinstance(reference, str):
        raise BadRow("the answer is a list")
    return {"prompt": question, "reference": re.sub(r"\bnp\.(?=[a-z])|(?<!\\)\$", "", reference).strip()}


_CARD = "its card on the hub"
_FILES = "the hub's list of its files"
_NOTES = "notes of others that quote the hub"
_CODE = "code of others that loads it"
_ENTRIES = (
    Benchmark(
        "gsm8k", "openai/gsm8k", "test", 1319,
        f"lm-evaluation-harness gsm8k.yaml; lighteval gsm8k.py; {_NOTES} (questions, columns, revision)",
        "740312add88f781978c0658806c59bc2815b9866", "main", QUESTION, unverified="revision: at second hand",
    ),
    Benchmark(
        "math500", "HuggingFaceH4/MATH-500", "test", 500,
        f"lighteval math_500.py; {_FILES} (split, revision); the rows in evalchemy MATH500",
        "ff5b20257d8185524591543f8ff5993951537bb8", None, PROBLEM,
    ),
    Benchmark(
        "math5k", "DigitalLearningGmbH/MATH-lighteval", "test", 5000,
        f"lighteval math.py (hub name, split, columns); {_CODE} (subset); the course's handout (the file)",
        None, "default", other_splits=("validation", "test"),
        unverified="revision; columns of the course's file",
    ),
    Benchmark(
        "amc23", "math-ai/amc23", "test", 40,
        f"{_FILES} (split); {_CODE} (columns); the rows in Qwen2.5-Math and in evalchemy AMC23",
        None, None, QUESTION, unverified="revision; columns on the hub",
    ),
    Benchmark(
        "aime24", "HuggingFaceH4/aime_2024", "train", 30,
        f"{_CARD} (questions, columns, the start of the revision); lighteval aime.py; {_NOTES} (revision)",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", None, PROBLEM, other_splits=("test",),
    ),
    Benchmark(
        "aime25", "math-ai/aime25", "test", 30,
        f"{_FILES} (split); lm-evaluation-harness aime25.yaml (columns); {_NOTES} (questions, revision)",
        "563bb8404243c5f09de6ec262f2db674fe5bce9b", None, PROBLEM, unverified="revision: at second hand",
    ),
    Benchmark(
        "aime26", "MathArena/aime_2026", "train", 30,
        f"{_CARD} (questions, columns); matharena aime_2026.yaml",
        None, None, PROBLEM, other_splits=("test",), unverified="revision",
    ),
    Benchmark(
        "hmmt_feb_2026", "MathArena/hmmt_feb_2026", "train", 33,
        f"{_CARD} (questions, columns); matharena hmmt_feb_2026.yaml",
        None, None, PROBLEM, other_splits=("test",), unverified="revision",
    ),
    Benchmark(
        "olympiadbench", "Hothan/OlympiadBench", "train", 674,
        f"lighteval olympiade_bench.py (hub name, subset, split); the rows in Qwen2.5-Math (columns; there are 675); {_CODE} (674)",
        None, "OE_TO_maths_en_COMP", shape="tutelage.data.benchmarks:olympiad_row", other_splits=("test",),
        unverified="revision; number of questions",
    ),
    Benchmark(
        "minerva", "math-ai/minervamath", "test", 272,
        f"{_FILES} (split); {_CODE} (columns, questions); the rows, and the tolerance of grader.py, in Qwen2.5-Math",
        None, None, shape="tutelage.data.benchmarks:minerva_row", tolerance=1e-4,
        unverified="revision; columns on the hub",
    ),
)  # fmt: skip
BENCHMARKS = {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True)
class Named:
    """A source that was named: as text, as the source that is read, and the benchmark that it is, if it is one."""

    text: str
    source: Source
    benchmark: Benchmark | None = None
    note: str = ""

    @property
    def short(self) -> str:
        """A name for a directory: the benchmark's, or that of the file or data set."""
        if self.benchmark is not None:
            return self.benchmark.name
        path = Path(self.text)
        return (path.expanduser().resolve() if _is_there(self.text) else path).stem or "data"


def named_sources(text: str) -> list[str]:
    """The names in a text with commas; a path with commas that is there is one name. Raises InputError: a name is empty, or twice."""
    names = [text] if _is_there(text) else [name.strip() for name in text.split(",")]
    if "" in names:
        raise InputError(f"{text!r}: a name is empty; write names with single commas between them")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{text!r} names {twice} twice")
    return names


def named_source(text: str, source: Source, folder: Path | None = None) -> Named:
    """What a name means: a file or directory that is there, a benchmark, or a data set of the hub.

    Args:
        text: the name; ``gsm8k=PATH`` is a benchmark whose rows lie at a path.
        source: how rows are read that are no benchmark's; of a benchmark, its `prompt` alone counts.
        folder: a directory that holds the rows of benchmarks, by their names.

    Raises:
        InputError: nothing has this name; the nearest benchmark is named.
    """
    name, given, path = text.partition("=")
    if given and name in BENCHMARKS and not _is_there(text):
        return _on_disk(BENCHMARKS[name], text, Path(path), source)
    benchmark = BENCHMARKS.get(text)
    if benchmark is not None and folder is not None:
        return _on_disk(benchmark, text, _in_folder(folder, benchmark), source)
    if _is_there(text):
        note = f"{text}: the file or directory here is read, and not the benchmark of this name" if benchmark else ""
        return Named(text, source.model_copy(update={"path": text}), None, note)
    if benchmark is not None:
        read = _read_as(benchmark, source, benchmark.pinned, benchmark.split, benchmark.hub_config)
        return Named(text, read, benchmark)
    if _is_word(text):
        raise InputError(_nothing_named(text))
    return Named(text, source.model_copy(update={"path": text}))


def validation_source(data: DataConfig) -> Source | None:
    """As `DataConfig.of_validation`, where `data.validation` may name a benchmark.

    Raises:
        InputError: a table says otherwise how the rows of a benchmark are read.
    """
    source = data.of_validation()
    if source is None or source.path not in BENCHMARKS:
        return source
    named = named_source(source.path, source)
    said = sorted(data.validation.model_fields_set - {"path", "prompt"}) if isinstance(data.validation, Source) else []
    if named.benchmark is not None and said:
        raise InputError(
            f'data.validation.path = "{source.path}" is a benchmark, which says how its rows are read: leave out {", ".join(said)}, or'
            f' write the data set itself, "{named.benchmark.hub}"'
        )
    if named.note:
        console.say(f"data.validation = {named.note}", style="yellow")
    return named.source


def _read_as(benchmark: Benchmark, source: Source, path: str, split: str, hub_config: str | None) -> Source:
    return Source(
        path=path, split=split, hub_config=hub_config, columns=dict(benchmark.columns), shape=benchmark.shape, prompt=source.prompt,
    )  # fmt: skip


def _on_disk(benchmark: Benchmark, text: str, path: Path, source: Source) -> Named:
    if not _is_there(str(path)):
        raise InputError(f"{text}: {path}: no such file or directory")
    path = path.expanduser()
    if benchmark.hub_config and (path / benchmark.hub_config).is_dir():  # a copy of the hub's repository
        path = path / benchmark.hub_config
    return Named(text, _read_as(benchmark, source, str(path), _split_there(benchmark, path), None), benchmark)


def _split_there(benchmark: Benchmark, path: Path) -> str:
    """The split of a directory that holds the questions: copies name it otherwise than the hub at times."""
    for split in (*benchmark.other_splits, benchmark.split):
        try:
            unread_files(str(path), split)
        except InputError:
            continue
        return split
    return benchmark.split


def _in_folder(folder: Path, benchmark: Benchmark) -> Path:
    """The file or directory of a benchmark in a folder: by the benchmark's name, or by that of its data set."""
    names = (benchmark.name.lower(), benchmark.hub.rpartition("/")[2].lower())
    try:
        there = sorted(folder.expanduser().iterdir())
    except OSError as error:
        raise InputError(f"--folder {folder}: cannot be read: {error.strerror}") from None
    for name in names:
        found = [path for path in there if (path.name if path.is_dir() else _stem(path.name)).lower() == name]
        if len(found) > 1:
            raise InputError(
                f"--folder {folder}: {some_of((path.name for path in found), NAMED)} may be {benchmark.name}: write {benchmark.name}=PATH"
            )
        if found:
            return found[0]
    files = f" (a directory, or a file of the kind {', '.join(KINDS)}, also with {' or '.join(PACKED)})"
    raise InputError(
        f"--folder {folder}: nothing there is called {' or '.join(dict.fromkeys(names))}{files}; there is"
        f" {some_of((path.name for path in there), NAMED) or 'nothing'}. Or write {benchmark.name}=PATH"
    )


def _stem(name: str) -> str:
    return stem_of(name) if kind_of(name) else ""


def _is_there(path: str) -> bool:
    """Whether a file or directory has this name, which may be no name at all (a NUL, more characters than a name may have)."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # the last: ~name of nobody
        return False


def _is_word(text: str) -> bool:
    """Whether a name can be neither a path nor a data set of the hub, which is called OWNER/NAME."""
    return text != "arithmetic" and "/" not in text and not kind_of(text) and not text.startswith((".", "~"))


def _nothing_named(text: str) -> str:
    begun = [name for name in BENCHMARKS if name.startswith(text.lower())]
    nearest = begun or difflib.get_close_matches(text.lower(), BENCHMARKS, n=1)
    meant = f"; did you mean {' or '.join(nearest)}?" if nearest else "."
    return (
        f"{text}: no file, directory or benchmark has this name{meant} Benchmarks are {', '.join(BENCHMARKS)} (tutelage eval --list)."
        " A data set of the hub is called OWNER/NAME"
    )
