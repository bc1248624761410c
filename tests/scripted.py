"""A model that says what it is told to: its responses are texts, by the index of the problem and of the sample."""

from __future__ import annotations

import contextlib
import weakref

from tutelage.evaluation.engine.contract import Completion


def right(answer, steps="Add them.") -> str:
    return f" {steps} </think> <answer> {answer} </answer>"


class Scripted:
    """Takes the place of `native.generating`.

    Attributes:
        say: (index, sample) → a text; one that ends in "…" is cut off. What it raises ends the generation.
        asked: the indices that were asked, in their order.
        held, most_held: completions that are alive now, and at most were.
    """

    def __init__(self, say):
        self.say, self.asked, self.held, self.most_held = say, [], 0, 0

    @contextlib.contextmanager
    def generating(self, model, tokenizer, sampling):
        def generate(prompts, batch_size, indices, on_finished=lambda count: None, on_tokens=lambda count: None):
            found = []
            for index in indices:
                for sample in range(sampling.samples):
                    found.append(self._completion(tokenizer, sampling, self.say(index, sample)))
                self.asked.append(index)
            on_finished(len(found))
            return found

        yield generate

    def _completion(self, tokenizer, sampling, text):
        cut = text.endswith("…")
        text = text.removesuffix("…")
        ids = tokenizer.encode(text, add_special_tokens=False)
        if not cut and not text.endswith(sampling.stop):
            ids.append(sampling.end_token_id)
        made = Completion(text, tuple(ids), "length" if cut else "stop", (0.5,) * len(ids), (-1.0,) * len(ids))
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        weakref.finalize(made, self._gone)
        return made

    def _gone(self):
        self.held -= 1
