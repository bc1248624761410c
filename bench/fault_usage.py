"""Kinds of bench/faults.py: commands, settings and paths that are wrong. Each is refused with one message and exit code 2."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_lab import Case, Lab, judge, said

NOT_NUMBERS = ("nan", "inf", "-1", "1e300", "abc", "[]", "true", '"0x10"')
NUMBERS = (
    "train.lr",
    "train.num_epochs",
    "train.clip_grad",
    "train.weight_decay",
    "eval.temperature",
    "train.warmup_ratio",
    "data.test_size",
)
COUNTS = (
    "train.num_steps",
    "train.batch_size",
    "train.grad_accum",
    "eval.every",
    "eval.examples",
    "eval.max_new_tokens",
    "eval.samples",
    "run.save_every",
    "run.keep_last",
    "data.size",
    "data.max_length",
    "train.pack_tokens",
    "eval.batch_size",
    "model.lora_rank",
)
NOT_COUNTS = ("-1", "1.5", "nan", "x", str(10**30))
CHOICES = (
    "model.device",
    "model.precision",
    "train.optimizer",
    "train.schedule",
    "eval.backend",
    "eval.reward",
    "data.shape",
    "train.loss",
    "data.prompt",
)
EITHER = {("train.lr", "true"), ("train.weight_decay", "true")}


def settings(lab: Lab) -> Iterator[Case]:
    """Settings that cannot be meant: other types, negative, not numbers, beyond any use, unknown names, files that are no TOML."""
    numbers = [(key, value) for key, value in itertools.product(NUMBERS, NOT_NUMBERS) if (key, value) not in EITHER]
    counts = list(itertools.product(COUNTS, NOT_COUNTS))
    choices = [(key, "no-such-thing") for key in CHOICES]
    for key, value in (
        *numbers,
        *counts,
        *choices,
        ("train.unknown", "1"),
        ("nothing.lr", "1"),
        ("train.betas", "[0.9]"),
        ("train.betas", "[2, 3]"),
    ):
        done = lab.run(*lab.train(lab.fresh("wrong"), f"--{key}={value}"))
        yield Case(
            f"train --{key}={value}", "exit code 2, and the setting is named", judge(done, (2,), named="|".join(key.split(".")))
        )
    for name, text in {
        "half a table": "[train",
        "another type": "train = 5",
        "an unknown section": "[nothing]\nx = 1",
        "a key twice": "[train]\nlr = 1\nlr = 2",
        "bytes": "\x00\x01",
        "deep": "x = " + "[" * 100_000,
        "a setting twice named": "train.lr = 1e-3\n[train]\nlr = 1",
    }.items():
        path = lab.folder / "wrong.toml"
        path.write_text(text)
        yield Case(
            f"a configuration with {name}",
            "exit code 2, the file is named",
            judge(lab.run("train", path), (2,), named="wrong.toml"),
        )


def usage(lab: Lab) -> Iterator[Case]:
    """Commands with wrong words, files that are not there, and paths that cannot be written."""
    calm, long = lab.calm(), "n" * 300
    missing, rows = lab.folder / "missing", lab.rows
    wrong: list[tuple[Any, ...]] = [
        ("nothing",),
        ("train", missing),
        ("train", rows),
        ("train", lab.folder),
        ("train", lab.config, "more", "words"),
        ("train", lab.config, "--nothing"),
        ("eval", missing, rows),
        ("eval", calm, missing),
        ("eval", calm),
        ("eval", rows, rows),
        ("ask", missing, "1+1"),
        ("ask", calm),
        ("report", missing),
        ("report", lab.folder / "cache"),
        ("report", rows),
        ("report", calm, "--out", missing / "x.html"),
        ("report", calm, "--out", "/"),
        ("report", calm, "--out", ""),
        ("report", calm, "--out", lab.folder / f"{long}.html"),
        ("compare", calm, missing),
        ("compare", missing, calm),
        ("compare", calm),
        ("export", missing),
        ("export", calm, "--step", "999"),
        ("export", calm, "--step", "x"),
        ("export", rows),
        ("grade",),
        ("grade", "1"),
        ("grade", "--file", missing),
        ("grade", "--file", rows, "--reference", "nothing"),
        ("filter", rows),
        ("filter", missing, "--out", missing / "x"),
        ("filter", rows, "--out", "/"),
        ("filter", rows, "--out", ""),
        ("filter", rows, "--out", "a\0b"),
        ("filter", rows, "--out", f"{long}.jsonl"),
        ("filter", rows, "--out", lab.folder),
        ("filter", rows, "--out", rows),
        ("filter", rows, "--out", "x.jsonl", "--where", "nowhere"),
        ("filter", rows, "--out", "x.jsonl", "--control", "no"),
        (*lab.train(Path("a\0b")),),
        (*lab.train(lab.folder / long),),
        ("train", lab.config, "--run.dir="),
        (*lab.train(lab.folder / "cache" / ".." / "\n"), "--train.lr=x"),
        (*lab.train(lab.fresh("w")), "--model.id="),
        (*lab.train(lab.fresh("w")), "--model.id=a\0b"),
        (*lab.train(lab.fresh("w")), f"--model.id={rows}"),
        (*lab.train(lab.fresh("w")), f"--model.id={missing}"),
        (*lab.train(lab.fresh("w")), "--model.id=no/such-model"),
        (*lab.train(lab.fresh("w")), f"--data.train={missing}"),
        (*lab.train(lab.fresh("w")), "--data.train="),
        (*lab.train(lab.fresh("w")), "--data.train=a\0b"),
        (*lab.train(lab.fresh("w")), f"--data.validation={missing}"),
        (*lab.train(lab.fresh("w")), "--data.columns={ prompt = 5 }"),
        (*lab.train(lab.fresh("w")), "--train.loss=os:system"),
        (*lab.train(lab.fresh("w")), "--data.where=import os"),
        (*lab.train(lab.fresh("w")), "--model.device=cuda:99"),
        (*lab.train(lab.fresh("w")), "--train.num_steps"),
        ("sweep", missing),
        ("sweep", lab.config, "--sizes", "0"),
        ("sweep", lab.config, "--sizes", "x"),
        ("sweep", lab.config, "--sizes", "4", "--seeds", "0"),
        ("sweep", lab.config, "--sizes", "4", "--lr", "-1", "--out", lab.fresh("s")),
        ("sweep", lab.config, "--vary", "train.nothing=1,2", "--out", lab.fresh("s")),
        ("sweep", lab.config, "--out", rows),
        ("plan", missing),
        ("plan", lab.config, "--gpus", "-1"),
        ("plan", lab.config, "--length", "-5"),
        ("check", missing),
        ("init", "--model", missing, "--train", rows, "--dir", "x", "--out", lab.fresh("of-init")),
        ("completion", "tcsh"),
    ]
    for words in wrong:
        yield Case(said(words).replace(str(lab.folder), "…"), "exit code 2, one message", judge(lab.run(*words), (2,)))


KINDS: dict[str, Callable[[Lab], Iterator[Case]]] = {"settings": settings, "usage": usage}
