"""What stands in for vLLM where tests want an engine in seconds: the same model, by Hugging Face, in a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tutelage.evaluation.engine import native


class StandIn:
    """`generation.vllm.VllmEngine` by the native generator. `behaviour` is "mode" or "mode@file": the file remembers starts."""

    def __init__(self, model, device, dtype, seed, gpu_memory_utilization, max_model_len, sleeps, behaviour="good"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        behaviour = os.environ.get("STAND_IN", behaviour)
        self.behaviour, _, self.memory = behaviour.partition("@")
        self.remember("start")
        if self.behaviour.endswith("-once") and len(Path(self.memory).read_text().splitlines()) > 1:
            self.behaviour = "good"
        torch.manual_seed(seed)  # as vLLM does
        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.syncs = 0

    def remember(self, what):
        if self.memory:
            with Path(self.memory).open("a") as file:
                file.write(f"{what}\n")

    def load(self, weights):
        assert set(weights) == set(self.model.state_dict())
        self.syncs += 1
        if self.behaviour == "stale" and self.syncs > 1:
            return
        self.model.load_state_dict(weights)

    def score(self, sequences, cuts):
        with torch.no_grad():
            logs = self.model(torch.tensor([list(ids) for ids in sequences])).logits.float().log_softmax(-1)
        plain = [logs[row, range(len(ids) - 1), ids[1:]].tolist() for row, ids in enumerate(sequences)]
        return {"plain": plain, "cached": [[values[cut - 1] for values in plain for cut in cuts]] * 2, "cached_tokens": 0}

    def generate(self, prompts, sampling, numbers=None, on_finished=lambda count: None):
        if self.behaviour.startswith("die"):
            print("the stand-in has had enough", flush=True)
            os._exit(3)
        if self.behaviour.startswith("hang"):
            time.sleep(3600)
        if self.behaviour == "slow":
            time.sleep(1.0)
        if self.behaviour == "wrong":
            raise ValueError("the stand-in does not like this")
        assert numbers is None or list(numbers) == list(range(len(prompts))) or sampling.temperature == 0
        return native.generate(self.model, self.tokenizer, prompts, sampling, on_finished=on_finished)

    def sleep(self):
        self.remember("sleep")

    def wake_up(self):
        self.remember("wake up")
