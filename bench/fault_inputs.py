"""Kinds of bench/faults.py: rows, models and chat templates from others, made to break, to mislead or to run code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_lab import PWNED, Case, Done, Lab, judge

SHORT = ("--train.num_steps=1", "--eval.every=0", "--eval.before=false", "--run.save_every=0", "--eval.examples=1")


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def rows(lab: Lab) -> Iterator[Case]:
    """Hostile rows and files: `filter` and `train` read them, tell them by line, or refuse them in one message."""
    good = json.loads(lab.rows.read_text().splitlines()[0])
    call = f"__import__('pathlib').Path('{lab.folder / PWNED}').touch()"

    def row(text: Any, **more: Any) -> str:
        return json.dumps({**good, "messages": [good["messages"][0], {"role": "assistant", "content": text}], **more}) + "\n"

    many = lab.rows.read_text()
    first = many.splitlines(keepends=True)[0]
    texts: dict[str, str | bytes] = {
        "code as an answer": many + row(call),
        "code in braces": many + row("{question.__class__}" + call),
        "markup": many + row("<script>alert(1)</script>"),
        "1e400": many + row("x", weight=0).replace('"weight": 0', '"weight": 1e400'),
        "NaN": many + row("x", weight=float("nan")),
        "6,000 digits": many + '{"prompt": "a", "response": ' + "9" * 6000 + "}\n",
        "200,000 brackets": many + "[" * 200_000 + "\n",
        "a lone surrogate": many + row("\ud800"),
        "NUL": many + row("a\0b"),
        "a list": many + "[1, 2]\n",
        "a number": many + "7\n",
        "null": many + "null\n",
        "an empty object": many + "{}\n",
        "messages null": many + row("x", messages=None),
        "messages a text": many + row("x", messages="x"),
        "messages of numbers": many + row("x", messages=[1, 2]),
        "content a list": many + row([["x"]]),
        "content a number": many + row(5),
        "an unknown role": many + row("x", messages=[{"role": "emperor", "content": "x"}]),
        "no closing brace": many + first[:-5] + "\n",
        "not UTF-8": many.encode() + b'{"prompt": "\xff\xfe"}\n',
        "UTF-16": many.encode("utf-16"),
        "a mark of byte order": "\ufeff" + many,
        "NUL bytes": bytes(4096),
        "an empty file": "",
        "blank lines": "\n" * 1000,
        "duplicate keys": many + first.replace("{", '{"messages": [], ', 1),
        "a row of 5 MB": many + row("word " * 1_000_000),
        "an answer of 100,000 braces": many + row("\\boxed{" * 100_000),
        "directional marks": many + row("\u202eabc\u2066"),
        "escape sequences": many + row("\x1b]0;title\x07\x1b[2J"),
        "a name with escapes": many,
    }
    for name, text in texts.items():
        path = lab.folder / ("a\x1b[2J\u202eb.jsonl" if name == "a name with escapes" else "hostile.jsonl")
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        out = lab.folder / "hostile-kept.jsonl"
        for old in lab.folder.glob("hostile-kept*"):
            old.unlink()
        problems = []
        for words in (("filter", path, "--out", out), lab.train(lab.fresh("hostile"), f"--data.train={path}", *SHORT)):
            done = lab.run(*words)
            problems.append(judge(done, (0, 1, 2), folder=lab.folder) or raw_controls(done))
        yield Case(f"rows: {name}, filter and train", "read, told by line, or one message", "; ".join(filter(None, problems)))
    for name, make in {
        "a link to itself": lambda path: path.symlink_to(path),
        "a pipe": os.mkfifo,
        "a directory": Path.mkdir,
        "/dev/null": lambda path: path.symlink_to("/dev/null"),
        "a missing file": lambda path: None,
        "a page as parquet": lambda path: path.with_suffix(".parquet").write_text("<html>"),
    }.items():
        path = lab.fresh("special.jsonl")
        path.unlink(missing_ok=True)
        make(path)
        read = path.with_suffix(".parquet") if "parquet" in name else path
        yield Case(
            f"{name} as data",
            "exit code 2, one message",
            judge(lab.run("filter", read, "--out", lab.folder / "special-kept.jsonl"), (2,)),
        )
        if path.is_symlink() or path.is_fifo():
            path.unlink()


def raw_controls(done: Done) -> str:
    """Whether control characters of the input reached the terminal."""
    found = [
        name
        for name, text in (("ESC", "\x1b[2J"), ("ESC]", "\x1b]0;t"), ("U+202E", "\u202e"), ("U+2066", "\u2066"))
        if text in done.text
    ]
    return f"control characters reached the terminal: {found}" if found else ""


def models(lab: Lab) -> Iterator[Case]:
    """Hostile model directories: refused with exit code 2 and one message, before compute; nothing in them is executed."""
    weights = (lab.model / "model.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + struct.unpack("<Q", weights[:8])[0]])
    body = weights[8 + struct.unpack("<Q", weights[:8])[0] :]
    tensor = next(name for name in header if "mlp" in name)
    bomb = pickle.dumps(Bomb(lab.folder / PWNED))

    def file(name: str, content: bytes | str) -> Callable[[Path], Any]:
        return lambda model: (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def without(*names: str, then: Callable[[Path], Any] = lambda model: None) -> Callable[[Path], Any]:
        return lambda model: ([(model / name).unlink() for name in names], then(model))

    def settings(name: str = "config.json", **changes: Any) -> Callable[[Path], Any]:
        return lambda model: (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | changes))

    def saying(changes: dict[str, Any]) -> Callable[[Path], Any]:
        lied = json.dumps(header | {tensor: header[tensor] | changes}).encode()
        return file("model.safetensors", struct.pack("<Q", len(lied)) + lied + body)

    def indexed(name: str, content: bytes) -> Callable[[Path], Any]:
        index = json.dumps({"weight_map": dict.fromkeys(header, name)})

        def make(model: Path) -> None:
            (model / "model.safetensors").unlink()
            (model / "model.safetensors.index.json").write_text(index)
            target = Path(name) if name.startswith("/") else model / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)

        return make

    def not_numbers(model: Path) -> None:
        file("model.safetensors", weights[: -len(body)] + b"\xff\xff\xff\x7f" * (len(body) // 4))(model)

    code = f"from pathlib import Path\nPath({str(lab.folder / PWNED)!r}).touch()\n"
    remote = {"auto_map": {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"}}
    broken: dict[str, Callable[[Path], Any]] = {
        "no weights": without("model.safetensors"),
        "an empty file of weights": file("model.safetensors", b""),
        "half the weights": file("model.safetensors", weights[: len(weights) // 2]),
        "a header of 2^62 bytes": file("model.safetensors", struct.pack("<Q", 2**62) + b"{}"),
        "a header that is no JSON": file("model.safetensors", struct.pack("<Q", 8) + b"notjson!"),
        "a deep header": file("model.safetensors", struct.pack("<Q", 200_000) + b"[" * 200_000),
        "offsets beyond the file": saying({"data_offsets": [0, 2**40]}),
        "offsets backwards": saying({"data_offsets": [64, 0]}),
        "a shape that lies": saying({"shape": [2**31, 2**31]}),
        "an unknown dtype": saying({"dtype": "F13"}),
        "a pickle": without("model.safetensors", then=file("pytorch_model.bin", bomb)),
        "a pickle named safetensors": file("model.safetensors", bomb),
        "an index to a pickle": indexed("pytorch_model.bin", bomb),
        "an index outside": indexed("../outside.safetensors", weights),
        "an index to an absolute path": indexed(str(lab.folder / "absolute.safetensors"), weights),
        "an index into a folder": indexed("sub/model.safetensors", weights),
        "an index to nothing": without("model.safetensors", then=file("model.safetensors.index.json", "{}")),
        "an index that is a list": without("model.safetensors", then=file("model.safetensors.index.json", "[]")),
        "NaN weights": not_numbers,
        "200,000 layers": settings(num_hidden_layers=200_000),
        "a vocabulary of 2^40": settings(vocab_size=2**40),
        "no heads": settings(num_attention_heads=0),
        "a negative width": settings(hidden_size=-32),
        "a width that is a text": settings(hidden_size="wide"),
        "heads that do not divide": settings(num_attention_heads=5),
        "an unknown kind": settings(model_type="theirs", architectures=["Theirs"]),
        "code in the configuration": lambda model: (
            settings(model_type="theirs", **remote)(model),
            file("theirs.py", code)(model),
        ),
        "a configuration that is a list": file("config.json", "[]"),
        "an empty configuration": file("config.json", ""),
        "no configuration": without("config.json"),
        "a deep configuration": file("config.json", "[" * 200_000),
        "a configuration that is not UTF-8": file("config.json", b"\xff\xfe{}"),
        "no tokenizer": without("tokenizer.json"),
        "half a tokenizer": file("tokenizer.json", (lab.model / "tokenizer.json").read_bytes()[:5000]),
        "a tokenizer that is a list": file("tokenizer.json", "[]"),
    }
    harmless = {
        "code for a generation": lambda model: (
            file("custom_generate.py", code)(model),
            settings("generation_config.json", custom_generate="theirs")(model),
        ),
        "code of a known kind": lambda model: (settings(**remote)(model), file("theirs.py", code)(model)),
        "code of a tokenizer": lambda model: (
            settings("tokenizer_config.json", auto_map={"AutoTokenizer": ["theirs.T", None]})(model),
            file("theirs.py", code)(model),
        ),
        "a pickle beside the weights": file("pytorch_model.bin", bomb),
    }
    for name, change in (broken | harmless).items():
        model = lab.copied(lab.model, "hostile-model")
        change(model)
        done = lab.run(*lab.train(lab.fresh("hostile"), f"--model.id={model}", *SHORT))
        yield Case(
            f"a model with {name}",
            "exit code 2, one message" if name in broken else "nothing is executed",
            judge(done, (2,) if name in broken else (0, 2), named="hostile-model" if name in broken else "", folder=lab.folder),
        )
        shutil.rmtree(model)


def templates(lab: Lab) -> Iterator[Case]:
    """Hostile chat templates: one message with exit code 2, within limits of time and memory; nothing is executed."""
    body = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    hostile = {
        "the class of a text": "{{ ''.__class__.__mro__ }}",
        "globals of a function, which are nothing,": "{{ raise_exception.__globals__ }}",
        "code by a cycler": "{{ cycler.__init__.__globals__.os.system('touch " + str(lab.folder / PWNED) + "') }}",
        "an open loop": "{% for m in messages %}",
        "an empty loop": "{% for %}",
        "an unknown filter": "{{ messages | nonsense }}",
        "an include": "{% include '/etc/passwd' %}",
        "an import": "{% import 'os' as os %}",
        "a refusal": "{{ raise_exception('no such role') }}",
        "loops without end": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
        "an output of 3 GB": "{{ 'x' * 3000000000 }}",
        "a power": "{{ 9 ** (9 ** 9) }}",
        "a type error": "{{ 1 + 'a' }}",
        "a division by zero": "{{ 1 / 0 }}",
        "a recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "a range beyond": "{{ range(10 ** 30) | list }}",
        "a format": "{{ '%0999999999d' | format(1) }}",
        "a width": "{{ 'x'.ljust(3000000000) }}",
        "no content at all": "",
    }
    for name, text in hostile.items():
        model = lab.copied(lab.model, "hostile-template")
        (model / "chat_template.jinja").write_text(text + body if text else text)
        done = lab.run(*lab.train(lab.fresh("hostile"), f"--model.id={model}", "--data.prompt=chat", *SHORT), seconds=60)
        yield Case(
            f"a chat template with {name}",
            "exit code 2, one message",
            judge(done, (0, 2) if "globals" in name else (2,), named="" if done.code == 0 else "template", folder=lab.folder),
        )


KINDS: dict[str, Callable[[Lab], Iterator[Case]]] = {"rows": rows, "models": models, "templates": templates}
