"""What the documentation site computes while it is built: both references from the code, and formulas as MathML.

MkDocs calls these functions (``hooks`` in mkdocs.yml). So the references cannot be stale, and no page needs a script or a server
to show a formula. ``python docs/hooks.py`` writes the map of the rooms in CONTRIBUTING.md again; a build warns when that is stale.
"""

from __future__ import annotations

import argparse
import ast
import html
import logging
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MAP = ROOT / "CONTRIBUTING.md"

SECTIONS = {
    "model": "What is trained, where, and in what precision.",
    "data": "The rows, and what becomes of them.",
    "train": "The optimizer steps.",
    "eval": "The problems that the model solves before, during and after training.",
    "parallel": "How several ranks work on one run; nothing of it matters to one process.",
    "run": "The run directory, checkpoints and trackers.",
}


def on_pre_build(**_: Any) -> None:
    if rooms() not in MAP.read_text(encoding="utf-8"):
        logging.getLogger("mkdocs.hooks").warning("CONTRIBUTING.md: the map of the rooms is stale; run: python docs/hooks.py")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated parts in place of their marks, which are comments."""
    for name, make in (("configuration", configuration), ("commands", commands)):
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Formulas, which arithmatex has marked, as MathML."""
    content = re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', lambda found: mathml(found[1], "block"), content, flags=re.S
    )
    return re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda found: mathml(found[1], "inline"), content, flags=re.S)


def mathml(latex: str, display: str) -> str:
    from latex2mathml.converter import convert

    return convert(html.unescape(latex).strip(), display=display)


def configuration() -> str:
    """Every setting: its name, type, default and docstring."""
    from tutelage.config import describe

    parts, last = [], ""
    for section, key, kind, default, text in describe():
        if section != last:
            parts += [f"## [{section}] {{ #{section} }}", SECTIONS.get(section, "")]
            last = section
        meaning = " ".join(text.split())
        parts += [
            f"### {section}.{key} {{ #{section}-{key} }}",
            f"`{kind}`, default `{default or '(empty)'}`",
            html.escape(meaning, quote=False).replace("{", "&#123;"),
        ]
    return "\n\n".join(parts)


def commands() -> str:
    """What ``tutelage COMMAND --help`` prints, of every command; of those that take settings, without the list of them."""
    from tutelage.cli.entry import build_parser

    os.environ["COLUMNS"], os.environ["NO_COLOR"] = "88", "1"  # what argparse looks at
    parser = build_parser()
    found = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {choice.dest: choice.help or "" for choice in found._choices_actions}
    parts = []
    for name, command in found.choices.items():
        summary = summaries.get(name, "")
        sentence = f"{summary[:1].upper()}{summary[1:]}{'' if summary.endswith(('.', '?')) else '.'}"
        parts += [
            f"## tutelage {name} {{ #{name} }}",
            html.escape(sentence, quote=False),
            f"```text\n{command.format_help().strip()}\n```",
        ]
    return "\n\n".join(parts)


def rooms() -> str:
    """The map of the folders, from the top: each with the first sentence of its docstring."""
    tests = ast.parse((ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8"))
    order = next(
        ast.literal_eval(node.value)
        for node in tests.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "ORDER"
    )
    lines = ["| folder | what it is |", "|---|---|"]
    for stage in reversed(order.split("<")):
        for name in re.findall(r"\w+", stage):
            package = ROOT / "src" / "tutelage" / name
            file = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            lines.append(f"| `{name}` | {' '.join(text.partition(chr(10) * 2)[0].split()).replace('``', '`')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    before, _, after = MAP.read_text(encoding="utf-8").partition("| folder | what it is |")
    after = after[after.index("\n\n") :]
    MAP.write_text(before + rooms() + after, encoding="utf-8")
