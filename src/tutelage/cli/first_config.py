"""What `tutelage init` writes: answers that are checked, the configuration that they make, and changes to one that is there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.cli.guess import Look, guess, look
from tutelage.errors import InputError

Raw = dict[str, dict[str, Any]]

SMALL = {"lr": 1e-4, "batch_size": 8, "grad_accum": 2, "num_epochs": 1}
"""What the embedded model of 135M learns well with."""
USUAL = {"lr": 2e-5, "batch_size": 4, "grad_accum": 4, "num_epochs": 2}
SETTINGS = {"model": "model.id", "train": "data.train", "validation": "data.validation", "dir": "run.dir"}
"""The setting that each answer is."""
OF_DATA = "# The data: "
"""The beginning of the lines at the top of the file that say what the data are."""


@dataclass
class Answers:
    """What is known of the run that is to be configured.

    Attributes:
        values: the answers, by the names of the flags.
        columns, validation_columns: that were named by the user; None: none were.
        said: settings that were given on the command line, by dotted names.
        before: settings of the file that is there, by dotted names.
        looks: what was seen of sources, so that each is read once.
    """

    values: dict[str, str]
    columns: dict[str, str] | None = None
    validation_columns: dict[str, str] | None = None
    said: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    looks: dict[Any, Look] = field(default_factory=dict)

    @staticmethod
    def of(raw: Raw, flags: Mapping[str, str | None], overrides: list[str], where: str) -> Answers:
        """What flags, settings on the command line and the file say, in this order.

        Raises:
            InputError: a setting is unknown, or a value is of the wrong type.
        """
        from tutelage.config import parse_config, parse_overrides, with_settings

        parse_config(raw, where)
        before, base = flat(raw), {section: dict(values) for section, values in raw.items()}
        given = {SETTINGS[name]: value for name, value in flags.items() if value}
        pairs = parse_overrides(overrides)
        for dotted, value in given.items():
            section, _, key = dotted.partition(".")
            of_before = base.setdefault(section, {}).get(key)
            base[section][key] = value
            if dotted == "data.validation" and isinstance(of_before, dict) and of_before.get("path") == value:
                base[section][key] = of_before
        path = base.get("data", {}).get("validation")
        if isinstance(path, str) and any(name.startswith("data.validation.") for name, _ in pairs):
            base["data"]["validation"] = {"path": path}
        now = flat(with_settings(base, pairs).model_dump(mode="json", exclude_unset=True))
        if isinstance(now.get("data.train"), list):
            raise InputError(
                f"{where}: data.train names several sources, which init does not change: edit the file, or name one source (--train)"
            )
        names = {*given, *(".".join(name.split(".")[:2]) for name, _ in pairs)}
        said = {name: now[name] for name in now if name in names}
        validation = now.get("data.validation")
        table = validation if isinstance(validation, dict) else {"path": validation}
        values = {name: now.get(setting) or "" for name, setting in SETTINGS.items()} | {"validation": table["path"] or ""}
        same = now.get("data.train") == before.get("data.train")
        columns = now.get("data.columns") if "data.columns" in said or same else None
        return Answers(values, columns or None, table.get("columns") or None, said, before)

    def answer(self, name: str, value: str) -> None:
        """Take an answer; columns that were named are those of another source, if it differs."""
        if value != self.values.get(name) and self.values.get(name):
            self.name_columns(name, None)
        self.values[name] = value
        if name != "validation":
            self.said[SETTINGS[name]] = value
        else:
            self.said.pop("data.validation", None)

    def forget(self, name: str) -> None:
        self.name_columns(name, None)
        self.values[name] = ""

    def name_columns(self, name: str, columns: dict[str, str] | None) -> None:
        if name == "train":
            self.columns = columns
            self.said.pop("data.columns", None)
        elif name == "validation":
            self.validation_columns = columns

    def look(self, source: str, columns: dict[str, str] | None, problems: bool = False) -> Look:
        key = source, repr(columns), problems
        if key not in self.looks:
            self.looks[key] = look(source, columns, problems, **self._options(problems))
        return self.looks[key]

    def _options(self, problems: bool) -> dict[str, Any]:
        """Further settings of how a source is read, as fields of a `Source`."""
        given = self.setting("data.validation", None)
        if problems and isinstance(given, dict):
            return {name: given[name] for name in ("split", "hub_config", "shape", "where") if name in given}
        names = {"split": "validation_split" if problems else "train_split", "hub_config": "hub_config", "shape": "shape"}
        names |= {} if problems else {"where": "where"}
        return {field: value for field, name in names.items() if (value := self.setting(f"data.{name}", None)) is not None}

    def setting(self, dotted: str, default: Any) -> Any:
        return self.said.get(dotted, self.before.get(dotted, default))


def flat(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names; tables among their values stay tables."""
    return {f"{section}.{key}": value for section, values in raw.items() for key, value in values.items()}


def check_model(known: Answers) -> None:
    """Raises InputError: a path that is no model."""
    name = known.values["model"]
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "model" / "config.json").is_file():
        raise InputError(f"--model {name}: no model there (a Hugging Face model directory holds config.json)")
    if not path.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise InputError(f"--model {name}: no such directory")


def check_train(known: Answers) -> Look | None:
    """What the training rows are; None for the built-in ones. Raises InputError as `look`."""
    source = known.values["train"]
    return None if source == "arithmetic" else known.look(source, known.columns)


def check_validation(known: Answers) -> Look | None:
    """What the validation problems are; None for the built-in ones, and where there are none. Raises InputError as `look`."""
    from tutelage.data import BENCHMARKS

    source = known.values["validation"]
    if source in ("", "arithmetic") or source in BENCHMARKS:
        return None
    if known.validation_columns is None and known.columns:
        try:  # columns of the training rows, if it has those
            asked = {name: text for name, text in known.columns.items() if name != "response"}
            return known.look(source, asked, problems=True)
        except InputError:
            pass
    return known.look(source, known.validation_columns, problems=True)


def composed(known: Answers) -> tuple[Raw, list[Look], list[str]]:
    """The configuration that the answers make; what was seen of the data, and what follows from it, in words.

    Raises:
        InputError: the data cannot be read or understood, or a setting is wrong.
    """
    from tutelage.config import parse_config

    values = known.values
    rows, problems = check_train(known), check_validation(known)
    data: dict[str, Any] = {"train": values["train"]}
    if values["validation"]:
        data["validation"] = _validation(known, problems)
    reward, notes = "r1_zero", []
    if rows is None:
        data |= {"prompt": reward, "filter": True}
    else:
        found = guess(rows, is_instruct(values["model"]))
        data, reward, notes = data | found.settings, found.reward, found.notes
    if rows is None:
        notes.append("arithmetic is built in, with problems of its own to validate on")
    elif not values["validation"]:
        notes.append("a tenth of the problems is held out to validate on")
    small = values["model"] == "smollm2"
    raw: Raw = {
        "model": {"id": values["model"]},
        "data": data,
        "train": dict(SMALL if small else USUAL),
        "eval": {"every": 30 if small else 100, "max_new_tokens": 256 if small else 1024, "reward": reward},
        "run": {"dir": values["dir"]},
    }
    for dotted, value in known.said.items():
        section, _, key = dotted.partition(".")
        if dotted != "data.validation":
            raw.setdefault(section, {})[key] = value
    parse_config(raw)
    return raw, [each for each in (rows, problems) if each is not None], notes


def _validation(known: Answers, problems: Look | None) -> Any:
    """The value of data.validation: a name, or a table where the problems have other columns than the training rows."""
    source, said = known.values["validation"], known.said.get("data.validation")
    table = dict(said) if isinstance(said, dict) else {}
    if problems is not None:
        shared = {name: text for name, text in (known.columns or {}).items() if name != "response"}
        own = known.validation_columns or (problems.columns if problems.columns != shared else {})
        if not own and shared:
            read = problems.as_columns()
            own = read if read != shared else {}
        if own:
            table["columns"] = own
    return {**table, "path": source} if table else source


def is_instruct(model: str) -> bool:
    """Whether a model answers chats: by its name, else by the chat template in its directory. Qwen's base models have one, too."""
    name = Path(model.partition("@")[0]).name.lower()
    words = set(re.split(r"[-_.]", name))
    if words & {"instruct", "chat", "it", "thinking", "sft", "dpo", "assistant", "distill"} or name == "smollm2":
        return True
    if words & {"base", "pt"} or name.startswith("qwen2"):
        return False
    if (Path(model) / "chat_template.jinja").is_file():
        return True
    tokenizer = Path(model) / "tokenizer_config.json"
    return name.startswith("qwen3") or (tokenizer.is_file() and '"chat_template"' in tokenizer.read_text(encoding="utf-8"))


def commented(raw: Raw, notes: Iterable[str]) -> str:
    """TOML whose every line has what the setting means above it."""
    import tomli_w

    from tutelage.config import meaning_of

    lines = [
        "# Written by tutelage init; run it again to change it. Every other setting has a default: tutelage train --help",
        *_said(notes),
    ]
    for section, values in raw.items():
        lines += ["", f"[{section}]"]
        for key, value in sorted(values.items(), key=lambda item: isinstance(item[1], dict)):  # tables stand at a section's end
            if isinstance(value, dict):
                lines += ["", *meaning_of(section, key), tomli_w.dumps({section: {key: value}}).strip()]
            else:
                lines += [*meaning_of(section, key), tomli_w.dumps({key: value}).rstrip()]
    return "\n".join(lines) + "\n"


def _said(notes: Iterable[str]) -> list[str]:
    return [OF_DATA + " ".join(note.split()) for note in notes]


def revised(before: str, raw: Raw, known: Answers) -> str:
    """The text of a configuration that is there, as the answers want it.

    What the user has changed by hand stays, unless the command line says otherwise. What init wrote for other answers follows the new
    ones: columns, prompt, grader, the learning rate of another model.
    """
    from tutelage.config import edited

    new, old = flat(raw), known.before
    wanted = {name: new[name] for name in known.said if name in new}
    changes: dict[str, Any] = {}
    core = [name for name in ("model.id", "data.train", "data.validation", "data.columns") if new.get(name) != old.get(name)]
    if core:
        wrote = _written_before(known)
        for name, value in new.items():
            if name in core or old.get(name) == wrote.get(name):
                changes[name] = value
        changes |= {name: None for name in wrote if name not in new and old.get(name) == wrote[name]}
        if "data.columns" in core and "data.columns" not in new:
            changes["data.columns"] = None
    changes = {name: value for name, value in (changes | wanted).items() if old.get(name) != value}
    text = edited(before, changes, explained=True)
    if core:
        rows = [each for each in known.looks.values() if each.source in (raw["data"]["train"], known.values["validation"])]
        text = _with_notes(text, [*map(str, rows[:2])])
    tomllib.loads(text)
    return text


def _with_notes(text: str, notes: Sequence[str]) -> str:
    """The text with other lines on the data at its top; it is left alone where it has none."""
    lines = text.splitlines()
    index = next((index for index, line in enumerate(lines) if line.startswith(OF_DATA)), None)
    if index is None:
        return text
    kept = [line for line in lines if not line.startswith(OF_DATA)]
    return "\n".join([*kept[:index], *_said(notes), *kept[index:]]) + "\n"


def _written_before(known: Answers) -> dict[str, Any]:
    """What init writes for the answers in the file; nothing where their data are not there any more."""
    old = known.before
    validation = old.get("data.validation") or ""
    table: dict[str, Any] = validation if isinstance(validation, dict) else {"path": validation}
    values = {name: old.get(setting, "") for name, setting in SETTINGS.items()} | {"validation": table["path"]}
    if not (values["model"] and isinstance(values["train"], str) and values["train"]):
        return {}
    try:
        raw, _, _ = composed(Answers(values, old.get("data.columns"), table.get("columns"), {}, old))
    except (InputError, KeyError):
        return {}
    return flat(raw)
