"""Stands in for llama.cpp's converter: it is called as that one is, and writes a real GGUF file of a small Llama.

`python to_gguf.py MODEL --outfile FILE --outtype TYPE`. With FAILS set it fails half-way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import gguf
from safetensors.numpy import load_file

PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
KINDS = {"f32": gguf.GGMLQuantizationType.F32, "q8_0": gguf.GGMLQuantizationType.Q8_0}


def main(arguments: argparse.Namespace) -> None:
    config = json.loads((arguments.model / "config.json").read_text())
    vocabulary = json.loads((arguments.model / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(arguments.outfile, "llama")
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    for name, values in load_file(arguments.model / "model.safetensors").items():
        kind = KINDS[arguments.outtype] if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        values = values.astype("float32")
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # as GGUF's rotary embedding wants rows
            count = heads if "q_proj" in name else keys
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(in_gguf(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_gguf(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, *part = name.removesuffix(".weight").split(".")
    return f"blk.{layer}.{PARTS['.'.join(part)]}.weight"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--outfile", type=Path, required=True)
    parser.add_argument("--outtype", choices=[*KINDS, "f16", "bf16"], required=True)
    given = parser.parse_args()
    if os.environ.get("FAILS"):
        given.outfile.write_bytes(b"half")
        sys.exit("Traceback\nNotImplementedError: BPE pre-tokenizer was not recognized")
    main(given)
