"""The host stays ahead of the device: a step reads from the device once, and where it counts changed weights once more."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.data.tokens import TokenizedExample
from tutelage.model.batch import pack
from tutelage.model.load import load_policy
from tutelage.model.optim import fill_state, make_optimizer
from tutelage.training.step import MEASURED_EVERY, accumulate_gradients, measures_change, update_weights

ROWS = [TokenizedExample(str(n), (5, 6, 7), tuple(range(8 + n, 12 + 2 * n))) for n in range(4)]


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: values that are read, and sizes that depend on values.

    On a CPU, `tolist` reads without an operation: it is counted apart (`reads`).
    """

    WAITING = ("aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero", "aten.unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        masks = name.startswith("aten.index") and any(
            index is not None and index.dtype == torch.bool for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name.startswith(self.WAITING) or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch):
    """How often a tensor's values were read by `tolist` or `cpu`."""
    found: Counter[str] = Counter()
    for name in ("tolist", "cpu"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda it, *how, name=name, plain=plain: found.update([name]) or plain(it, *how))
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("measures", [False, True])
def test_a_step_waits_for_the_device_once(make_config, tokenizer, reads, monkeypatch, precision, measures):
    config = make_config(model__precision=precision)
    policy = load_policy(config.model, tokenizer)
    policy.model.train()
    policy.model.config.use_cache = False
    optimizer = make_optimizer(policy.model, config)
    fill_state(optimizer)
    # attention on the CPU reads its own blocks; that of a GPU is laid out ahead
    batches = [pack(ROWS[:2]).ready(policy.kernel), pack(ROWS[2:]).ready(policy.kernel)]
    layouts = [tensor for batch in batches for tensor in vars(batch.layout).values()]
    ours = [tensor.data_ptr() for tensor in layouts]
    plain = torch.Tensor.tolist

    def of_layouts_uncounted(tensor):
        values = plain(tensor)
        if tensor.data_ptr() in ours:
            reads["tolist"] -= 1
        return values

    torch.Tensor.tolist, kept = of_layouts_uncounted, torch.Tensor.tolist
    reads.clear()
    try:
        with Waits() as waits:
            accumulate_gradients(policy, ROWS, batches, config, 0)
            after_gradients = Counter(reads), Counter(waits.found)
            counted = update_weights(policy, optimizer, 1e-4, measures)
    finally:
        torch.Tensor.tolist = kept
    assert +after_gradients[0] == {"tolist": 1} and not after_gradients[1]
    assert (counted is not None) == measures
    assert sum(reads.values()) == 1 + measures
    # the count of changed weights is summed on the CPU; fused AdamW on a CPU reads its own counter of steps
    assert sum(waits.found.values()) <= measures


def test_what_the_host_counts_it_counts_while_the_device_computes(make_config, tokenizer, monkeypatch):
    """A step of a large model has milliseconds of it; behind the wait the device would be idle for so long."""
    policy, happened = load_policy(make_config().model, tokenizer), []
    policy.model.train()
    plain = torch.Tensor.tolist
    monkeypatch.setattr("tutelage.training.step.step_flops", lambda policy, *batches: happened.extend(["counts"] * len(batches)) or 1.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda it: happened.append("waits" if it.dtype == torch.float64 else "") or plain(it))
    accumulate_gradients(policy, ROWS, [pack(ROWS[:2]), pack(ROWS[2:])], make_config(), 0)
    assert [each for each in happened if each] == ["counts", "counts", "waits"]


def test_changes_are_counted_in_the_first_the_last_and_every_tenth_step():
    assert [step for step in range(25) if measures_change(step, 25)] == [0, 9, 19, 24] and MEASURED_EVERY == 10


@pytest.mark.slow
def test_a_log_without_changes_of_weights_is_read(make_config):
    """Lines of steps that did not count are no reason to say that weights stand still."""
    import json

    from tutelage.training import fine_tune

    directory = fine_tune(make_config(train__num_steps=4, eval__before=False, eval__every=0, run__save_every=0)).directory
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert ["weights_changed" in line for line in steps] == [True, False, False, True]
    assert (directory / "report.html").is_file()
