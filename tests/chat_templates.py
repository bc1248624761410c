"""Chat templates of each kind in use, in our own words: what they keep of thoughts, where they open one, how turns end."""

from __future__ import annotations

QWEN3 = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>
{% elif m.role == 'assistant' %}
{%- set content, thought = m.content, '' %}
{%- if m.reasoning_content is string %}{% set thought = m.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}<|im_start|>assistant
{% if loop.index0 > ns.last and (loop.last or thought) %}<think>
{{ thought.strip('\\n') }}
</think>

{{ content.lstrip('\\n') }}{% else %}{{ content }}{% endif %}
{%- for call in m.tool_calls or [] %}{% if content or not loop.first %}{{ '\\n' }}{% endif %}
{%- set call = call.function or call %}<tool_call>
{"name": "{{ call.name }}", "arguments": {{ call.arguments if call.arguments is string else call.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
"""Strips thoughts before the last question; takes them as a field; shows tools."""

QWEN3_THINKING = QWEN3.rpartition("{% if enable_thinking is defined")[0] + "<think>\n{% endif %}"
"""As QWEN3, and its generation prompt opens the thought."""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- if messages[0].role == 'system' %}{% set system, turns = messages[0].content | trim, messages[1:] %}
{%- else %}{% set system, turns = '', messages %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + system + '<|eot_id|>' }}
{%- for m in turns %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
"""Keeps all that it is given, shows the date, and any role; no tool calls."""

R1 = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'assistant' %}
{%- set content = m.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""
"""Opens the thought, and strips it from all turns, the last one too."""

DEEPSEEK31 = R1.replace("'<｜Assistant｜>' + content", "'<｜Assistant｜></think>' + content").replace(
    "{{ '<｜Assistant｜><think>\\n' }}", "{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}"
)
"""A bare closing tag where it leaves a thought out; the argument `thinking` opens one."""

GPT_OSS = """<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}
Reasoning: {{ reasoning_effort or 'medium' }}<|end|>
{%- set turns = messages %}
{%- if messages[0].role in ('developer', 'system') %}<|start|>developer<|message|># Instructions

{{ messages[0].content }}{% set turns = messages[1:] %}
{%- if tools %}{{ '\\n\\n' }}{% for tool in tools %}type {{ tool.function.name }}{% endfor %}{% endif %}<|end|>
{%- elif tools %}<|start|>developer<|message|>{% for tool in tools %}type {{ tool.function.name }}{% endfor %}<|end|>{% endif %}
{%- set ns = namespace(tool='') %}
{%- for m in turns %}
{%- if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>
{%- elif m.role == 'tool' %}<|start|>functions.{{ ns.tool }} to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>
{%- elif m.tool_calls %}
{%- set after = namespace(final=false) %}
{%- for later in turns[loop.index:] %}{% if later.role == 'assistant' and not later.tool_calls %}{% set after.final = true %}{% endif %}{% endfor %}
{%- if m.thinking and not after.final %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}
{%- set call = m.tool_calls[0].function %}{% set ns.tool = call.name %}<|start|>assistant to=functions.{{ call.name }}
{{- '<|channel|>commentary json<|message|>' + call.arguments | tojson }}<|call|>
{%- elif loop.last and not add_generation_prompt %}
{%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}<|return|>
{%- else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
"""Channels: a thought goes into `analysis`, which is dropped from the history, the earlier calls' too once an answer follows."""

MISTRAL = """{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
"""No generation prompt, a space before the answer, roles that alternate."""

NO_SYSTEM = """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- set role = 'model' if m.role == 'assistant' else m.role %}<start_of_turn>{{ role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""

SPECIALS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>",
    "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<|start|>", "<|end|>", "<|message|>",
    "<|channel|>", "<|call|>", "<|return|>", "[INST]", "[/INST]", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip

TOKENS = {
    "qwen3": ("<|endoftext|>", "<|im_end|>"), "qwen3-thinking": ("<|endoftext|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "r1": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "deepseek31": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), "gpt-oss": ("<|endoftext|>", "<|return|>"),
    "mistral": ("<s>", "</s>"), "no-system": ("<s>", "<end_of_turn>"),
}  # fmt: skip
"""(start token, end token) of each kind."""

SOURCES = {
    "qwen3": QWEN3, "qwen3-thinking": QWEN3_THINKING, "llama3": LLAMA3, "r1": R1, "deepseek31": DEEPSEEK31, "gpt-oss": GPT_OSS,
    "mistral": MISTRAL, "no-system": NO_SYSTEM,
}  # fmt: skip


def tokenizer_of(kind: str):
    """A byte-level tokenizer with a chat template of a kind, and with the special tokens of all."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merged = ["Ġt", "he", "in", "er", "Ġthe"]
    vocabulary = {**alphabet, **{token: len(alphabet) + index for index, token in enumerate(merged)}}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "t"), ("h", "e"), ("i", "n"), ("e", "r"), ("Ġt", "he")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    start, end = TOKENS[kind]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=start, eos_token=end, extra_special_tokens=list(SPECIALS))
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    tokenizer.chat_template = SOURCES[kind]
    return tokenizer
