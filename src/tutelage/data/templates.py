"""Prompt templates: the text around a question, which training, validation and `tutelage ask` share."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BARE = "{question}"
"""The template that adds nothing."""


def load_template(name: str) -> str:
    """The text of a prompt template: a shipped one by name, "none" for the row's own text, or a file with ``{question}``."""
    if name == "none":
        return BARE
    shipped = resources.files("tutelage.data") / "prompts"
    try:
        file = shipped / f"{name}.txt"
        text = file.read_text(encoding="utf-8") if file.is_file() else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        known = sorted(file.name.removesuffix(".txt") for file in shipped.iterdir() if file.name.endswith(".txt"))
        raise InputError(
            f"data.prompt: {name!r} is neither a template ({', '.join(known)}, none, chat) nor a readable file"
        ) from None
    if text.count("{question}") != 1:
        raise InputError(f"{name}: a prompt template holds {{question}} exactly once")
    return text


def prompt_template(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The template text for `data.prompt`; "chat" renders the tokenizer's own chat template around ``{question}``."""
    if name != "chat":
        return load_template(name)
    if not tokenizer.chat_template:
        raise InputError(f'data.prompt = "chat", but the tokenizer of {tokenizer.name_or_path} has no chat template')
    message = [{"role": "user", "content": "{question}"}]
    text: str = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    if text.count("{question}") != 1:
        raise InputError("the chat template does not show the user's message exactly once")
    return text


def apply_template(pair: dict[str, str], template: str) -> tuple[str, str]:
    """(prompt, response); when the template already opens the think block, the response does not open it again."""
    prompt = template.replace("{question}", pair["prompt"].strip() if template != BARE else pair["prompt"])
    response = pair["response"]
    if template.rstrip().endswith("<think>"):
        response = response.lstrip().removeprefix("<think>")
    return prompt, response
