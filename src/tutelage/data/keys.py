"""What a store of rows depends on besides the rows, in hashes: content, template, tokenizer, code."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from tutelage.config import Source
from tutelage.data.recipe import Recipe
from tutelage.data.sources import fingerprint
from tutelage.data.templates import Template
from tutelage.errors import InputError, first_line


def store_key(content: str, source: Source, recipe: Recipe) -> str:
    """A name for all that a store depends on."""
    ids = [template_key(recipe.template), tokenizer_key(recipe.tokenizer), recipe.turns, recipe.problems, recipe.limit]
    reader = recipe.reader
    weight = None if reader.weight is None else reader.weight.text
    values = [content, source.model_dump_json(), *ids, reader.setting, weight, reader.purpose.reward, code()]
    return xxhash.xxh3_128_hexdigest(repr(values).encode("utf-8", "surrogatepass"))


def content_of(source: Source) -> str:
    """A hash of all rows. Raises InputError: they cannot be read."""
    try:
        return fingerprint(source.path, source.split, source.hub_config)
    except OSError as error:
        raise InputError(f"{source.path}: cannot be read: {error.strerror or first_line(error)}") from None


def template_key(template: Template) -> str:
    """All of a template, but the time that it shows if it shows none."""
    return (template if "strftime" in template.chat else replace(template, now="")).to_json()


def tokenizer_key(tokenizer: Any) -> str:
    """A hash of what a tokenizer makes of any text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr((type(tokenizer), sorted(tokenizer.get_vocab().items())))
    ids = repr((tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.all_special_tokens))
    return xxhash.xxh3_128_hexdigest(f"{text}{ids}".encode())


@functools.cache
def code() -> str:
    """A hash of the code that makes stores."""
    import tokenizers
    import transformers

    here = Path(__file__).parent
    files = sorted([*here.rglob("*.py"), *(here.parent / "grading").rglob("*.py")])
    digest = xxhash.xxh3_128(f"{tokenizers.__version__} {transformers.__version__}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
