"""What holds of every engine: the same settings give the same texts, ends and counts of tokens."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from chain import SAYS, make_chain_model
from lines import read_lines
from test_vllm import HERE

from tutelage.cli.entry import main
from tutelage.evaluation.engine import init_vllm, registry
from tutelage.evaluation.engine.contract import Sampling, cut_at_stop

CASES = [
    (Sampling(20, 0.0, stop=()), ("éSTOPx", 8, "stop", None)),
    (Sampling(20, 0.0, stop=("STOP",)), ("éSTOP", 6, "stop", "STOP")),
    (Sampling(20, 0.0, stop=("P", "TO")), ("éSTO", 5, "stop", "TO")),
    (Sampling(20, 0.0, stop=("STOP",), min_new_tokens=5), ("éSTOP", 6, "stop", "STOP")),
    (Sampling(20, 0.0, stop=("STOP",), min_new_tokens=6), ("éSTOPx", 8, "stop", None)),
    (Sampling(20, 0.0, stop=("T", "P"), min_new_tokens=5), ("éSTOP", 6, "stop", "P")),
    (Sampling(20, 0.0, stop=("é",)), ("é", 2, "stop", "é")),
    (Sampling(20, 0.0, stop=("é",), min_new_tokens=1), ("é", 2, "stop", "é")),
    (Sampling(20, 0.0, stop=("é",), min_new_tokens=2), ("éSTOPx", 8, "stop", None)),
    (Sampling(20, 0.0, stop=("a", "aé")), ("éSTOPx", 8, "stop", None)),
    (Sampling(6, 0.0, stop=("P",)), ("éSTOP", 6, "stop", "P")),
    (Sampling(5, 0.0, stop=("P",)), ("éSTO", 5, "length", None)),
    (Sampling(20, 0.0, stop=("x",), samples=3), ("éSTOPx", 7, "stop", "x")),
    (Sampling(20, 0.001, top_p=0.5, stop=("O",), samples=2), ("éSTO", 5, "stop", "O")),
    (Sampling(20, 0.0, stop=(), end_token_id=25), ("éSTOPx<|end|>", 20, "length", None)),
]


@pytest.mark.parametrize("backend", ["native", "fake", pytest.param("vllm", marks=[pytest.mark.slow, HERE])])
def test_the_same_settings_give_the_same_responses(tmp_path, request, backend):
    if backend != "vllm":
        request.getfixturevalue("inside")
    model = make_chain_model(tmp_path / "chain", words=SAYS)
    with init_vllm(model, "cpu", 1, backend=backend, dtype="float32", max_model_len=64) as llm:
        for sampling, expected in CASES:
            (answer,) = llm.generate(["a"], sampling, use_tqdm=False)
            said = [(output.text, len(output.token_ids), output.finish_reason, output.stop_reason) for output in answer.outputs]
            if sampling.end_token_id is None:
                assert said == [expected] * sampling.samples, sampling
            else:  # another end: the model's own is a token like others
                assert said[0][0].startswith(expected[0]) and said[0][1:] == expected[1:], sampling


def settings_of(model, backend, *more, option="--backend"):
    return [model, "rows.jsonl", option, backend, "--prompt", "plain", "--eval.examples", "3", "--eval.max_new_tokens", "12", *more]


def responses(directory):
    return [(record["response"], record["length"], record["finish_reason"]) for record in read_lines(directory / "generations.jsonl")]


@pytest.mark.slow
def test_stop_strings_are_a_setting_of_an_evaluation(tiny_model, data_file, tmp_path, inside, monkeypatch, capsys):
    """`eval.stop`, beside the one that is always there; by every engine alike."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(data_file.read_text())
    assert main(["eval", *settings_of(tiny_model, "native", "--out", "free")]) == 0
    free = responses(tmp_path / "free")
    longest = max((response for response, _, _ in free), key=len)
    first, second = longest[2:5], longest[-3:]
    strings = json.dumps([first, second], ensure_ascii=False)
    found = {}
    for backend in ("native", "fake"):
        assert main(["eval", *settings_of(tiny_model, backend, "--eval.stop", strings, "--out", backend)]) == 0
        found[backend] = responses(tmp_path / backend)
    assert found["native"] == found["fake"] != free
    assert [text for text, _, _ in found["native"]] == [cut_at_stop(text, (first, second))[0] for text, _, _ in free]
    assert {reason for text, _, reason in found["native"] if text.endswith((first, second))} == {"stop"}
    capsys.readouterr()
    assert main(["eval", *settings_of(tiny_model, "native", "--eval.stop", '[""]', "--out", "none")]) == 2
    assert 'eval.stop: "" would end every response' in capsys.readouterr().err


MINE = '''
class Mine:
    """A model of transformers, one token at a time: nothing of Tutelage but the contract."""

    def __init__(self, model, device, dtype, seed, gpu_memory_utilization, max_model_len, sleeps):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def load(self, weights):
        self.model.load_state_dict(weights)

    def score(self, sequences, cuts):
        with self.torch.no_grad():
            found = [self.model(self.torch.tensor([list(ids)])).logits[0].float().log_softmax(-1) for ids in sequences]
        plain = [each[range(len(ids) - 1), list(ids[1:])].tolist() for each, ids in zip(found, sequences)]
        return {"plain": plain, "cached": [[row[cut - 1] for row in plain for cut in cuts]] * 2, "cached_tokens": 0}

    def generate(self, prompts, sampling, indices=None, on_finished=lambda count: None):
        from tutelage.evaluation.engine.contract import Completion, to_text

        said = []
        for prompt in prompts:
            tokens, reason = [], "length"
            while len(tokens) < sampling.max_new_tokens and reason == "length":
                with self.torch.no_grad():
                    logits = self.model(self.torch.tensor([[*prompt, *tokens]])).logits[0, -1]
                tokens.append(int(logits.argmax()))
                text = to_text(self.tokenizer, tokens, {sampling.end_token_id}, sampling)
                if tokens[-1] == sampling.end_token_id or any(text.endswith(string) for string in sampling.stop):
                    reason = "stop"
            said.append(Completion(text, tuple(tokens), reason, None))
            on_finished(1)
        return said


class Absent(Mine):
    @staticmethod
    def missing(device):
        return f"mine needs more than a {device}", "buy one"
'''


@pytest.mark.slow
def test_an_engine_from_outside_evaluates_by_the_command_line(tiny_model, data_file, tmp_path, inside, monkeypatch, capsys):
    """One file beside the data, and `--backend my_file:Mine`: certified, and with the answers of the engines that are shipped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "rows.jsonl").write_text(data_file.read_text())
    (tmp_path / "my_file.py").write_text(MINE)
    for backend, option, out in (
        ("native", "--backend", "ours"), ("my_file:Mine", "--backend", "by option"), ("my_file:Mine", "--eval.backend", "theirs"),
    ):  # fmt: skip
        more = ("--eval.stop", '["e", "9"]', "--out", out)
        assert main(["eval", *settings_of(tiny_model, backend, *more, option=option)]) == 0
    assert responses(tmp_path / "ours") == responses(tmp_path / "theirs") == responses(tmp_path / "by option")
    summary = json.loads((tmp_path / "theirs" / "summary.json").read_text())
    assert summary["backend"] == "my_file:Mine" and all(each["holds"] for each in summary["certificates"])
    capsys.readouterr()
    for backend, what in (("my_file:Absent", "needs more than a cpu: buy one"), ("my_file:None_", "no None_"), ("mine", '"native"')):
        assert main(["eval", *settings_of(tiny_model, backend, "--out", "never")]) == 2
        assert what in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_every_engine_of_the_registry_keeps_the_contract():
    """Those that are shipped have the methods that a plug-in is asked for; one of them needs no process."""
    from tutelage.config import load_plug_in

    assert set(registry.ENGINES) == {"vllm", "native", "fake"}
    for entry in registry.ENGINES.values():
        made = load_plug_in("eval.backend", entry.factory)
        assert all(callable(getattr(made, method)) for method in ("load", "generate", "score", "sleep", "wake_up"))
        assert entry.takes_params == hasattr(made, "answer")
    assert [name for name, entry in registry.ENGINES.items() if entry.in_place] == ["native"]


def test_the_native_engine_sleeps_and_wakes_up(tiny_model):
    from tutelage.evaluation.engine.native import NativeEngine

    engine = NativeEngine(tiny_model, "cpu", "float32", 0)
    before = engine.generate([[5, 6, 7]], Sampling(4, 0.0))
    engine.sleep()
    engine.wake_up()
    assert engine.generate([[5, 6, 7]], Sampling(4, 0.0)) == before
    assert engine.score([[5, 6, 7]], [1])["plain"][0] == pytest.approx(
        [row[token].item() for row, token in zip(log_probs_of(engine.model, [5, 6, 7]), [6, 7])]
    )


def log_probs_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)
