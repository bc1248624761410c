"""A real vLLM engine that can be told to make the mistakes that the certificate is there to catch."""

from __future__ import annotations

from typing import ClassVar

from tutelage.evaluation.engine.vllm import VllmEngine


class Planted(VllmEngine):
    mistake = ""
    others: ClassVar = []

    def plant(self, mistake):
        self.mistake = mistake

    def load(self, weights):
        if self.mistake == "stale head":  # as when a tied head is left out and its packed copy not renewed
            rest = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(rest.items())})
            self.llm.reset_prefix_cache()
        elif self.mistake == "stale":
            self.llm.reset_prefix_cache()
        elif self.mistake == "stale cache":
            self.llm.reset_prefix_cache, reset = lambda: True, self.llm.reset_prefix_cache
            super().load(weights)
            self.llm.reset_prefix_cache = reset
        else:
            super().load(weights)

    def answers_of(self, model, prompts, samplings):
        """What an engine of another model, beside this one, answers to prompts with each sampling.

        It stays: when vLLM ends an engine, it ends the groups of its process, which this one has, too.
        """
        self.others.append(VllmEngine(model, "cpu", "float32", 1, 0.85, max_model_len=80))
        return [self.others[-1].generate(prompts, sampling) for sampling in samplings]
