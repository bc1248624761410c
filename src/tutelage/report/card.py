"""The card of a trained model: what it is, how to use it, what it was trained on, and how often it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.config import Config
from tutelage.console import percent
from tutelage.data import Template
from tutelage.data import summary as counts_in_words
from tutelage.report.words import evaluation_row, model_id, rows_seen, stopped_early
from tutelage.runs import shown_accuracy

CHAT = """messages = [{"role": "user", "content": question}]
prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"""


def model_card(
    config: Config, result: Mapping[str, Any], fates: Counter[str], template: Template, precision: str, adapter: bool = False
) -> str:
    """The model card, written from the run.

    Args:
        result: steps, evaluations, and how the run was stopped before its planned length if it was, as in ``result.json``.
        fates: how many rows met which fate.
        precision: what was computed in, which a device may have decided.
        adapter: whether it is the card of the adapter alone.
    """
    base, train, steps, stopped = model_id(config), config.train, result["steps"], result.get("stopped")
    rows = fates["kept"] + fates["truncated"]
    seen = rows_seen(steps, train.rows_per_step, rows)
    card = [
        "---",
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        *([] if Path(base).exists() else [f"base_model: {base}"]),
        *([f"license: {name}"] if (name := licence_of(base)) else []),
        "tags: [tutelage, sft]",
        "---",
        f"# {Path(config.run.dir).name}",
        "",
        f"`{base}` after {steps} optimizer steps of supervised fine-tuning by Tutelage on `{config.data.in_words}`:"
        f" {rows} rows ({counts_in_words(fates)}){seen and f', {seen}'}, prompt template `{config.data.prompt}`,"
        f" learning rate {train.lr:g} ({train.schedule}), {train.batch_size} × {train.grad_accum} rows a step,"
        f" {precision}, loss per {train.loss_normalization}.",
        *_of_adapters(config, adapter),
        *(["", stopped_early(stopped, steps)] if stopped else []),
        "",
        "## Use",
        "",
        *_snippet(template, config, adapter),
        "",
    ]
    if result["evaluations"]:
        card += _accuracies(result["evaluations"], config.eval.reward)
    card.append(
        "The run directory beside this model holds the resolved configuration, the environment, the fate of every row"
        " and every generation.\n"
    )
    return "\n".join(card)


def _of_adapters(config: Config, alone: bool) -> list[str]:
    """A paragraph on the adapters of a run, if there are any: of what rank they are, and over which weights they were trained."""
    model = config.model
    if model.lora == "none":
        return []
    name = {"lora": "LoRA", "dora": "DoRA"}[model.lora]
    text = f"{name} adapters of rank {model.lora_rank} (alpha {model.lora_alpha}) on {', '.join(model.lora_targets)}"
    if model.quantize != "none":
        text += f", trained over weights in 4 bits ({model.quantize}, blocks of 64)"
    if not alone:
        return ["", f"{text}, merged into the weights of this model{' as they were rounded' if model.quantize != 'none' else ''}."]
    if model.quantize != "none":
        text += "; over the base model as it was published, it computes nearly the same"
    return ["", f"{text}. This directory holds the adapter alone."]


def licence_of(base: str) -> str:
    """The licence that the card in a model's directory names; "" where there is no such directory, card or licence."""
    card = Path(base) / "README.md"
    try:
        lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    except (OSError, ValueError):
        return ""
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return ""
    head = lines[1 : lines.index("---", 1)]
    named = next((line.partition(":")[2].strip() for line in head if line.startswith("license:")), "")
    return named if named.replace("-", "").replace(".", "").isalnum() else ""


def _snippet(template: Template, config: Config, adapter: bool) -> list[str]:
    """Lines of Markdown: a program that asks the model a question as it was taught to be asked."""
    asks = CHAT if template.chat else f'prompt = {template.text!r}.replace("{{question}}", question)'
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if adapter:
        imports = ["from peft import AutoPeftModelForCausalLM", "from transformers import AutoTokenizer"]
    return [
        "```python",
        *imports,
        "",
        'name = "."  # this directory',
        f"tokenizer, model = AutoTokenizer.from_pretrained(name), {imports[0].split()[3].rstrip(',')}.from_pretrained(name)",
        'question = "What is 12 + 30?"',
        *asks.splitlines(),
        # a chat template writes the token that begins a text by itself
        f'asked = tokenizer(prompt, return_tensors="pt", add_special_tokens={not template.chat})',
        f"answered = model.generate(**asked, max_new_tokens={config.eval.max_new_tokens}, do_sample=False, tokenizer=tokenizer)",
        'print(tokenizer.decode(answered[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```",
    ]


def _accuracies(evaluations: Sequence[dict[str, Any]], reward: str) -> list[str]:
    """How often the model is right, as lines of Markdown: the curve of the panel in a table, and evaluations of all problems."""
    asked = f"Accuracy on {evaluations[0]['examples']} problems, the same ones each time, graded by `{reward}_reward_fn`:"
    names = ("step", "accuracy", "95 % interval", "well-formed", "cut off", "mean tokens", "mean token entropy")
    rows: list[Sequence[str]] = [names, ["---"] * len(names)]
    for line in evaluations:
        row, (low, high) = evaluation_row(line), line["accuracy_ci95"]
        shares = (percent(line["accuracy"]), f"{100 * low:.1f}–{100 * high:.1f} %", row["well_formed"], row["cut_off"])
        rows.append((str(row["step"]), *shares, row["length"], row["entropy"]))
    of_all = [
        f"On all {line['full']['examples']} problems, step {line['step']}: {shown_accuracy(line['full'])}.\n"
        for line in evaluations
        if "full" in line
    ]
    return ["## How often it is right", "", asked, "", *(f"| {' | '.join(row)} |" for row in rows), "", *of_all]
