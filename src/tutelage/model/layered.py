"""Several batches forward, then all of them backward through one layer after the other.

The gradient of a layer over all batches is complete before the gradient of the layer below begins. So it can be used and freed,
though a step has several batches. What is kept of each batch meanwhile is the input of each layer, as with activation checkpointing
"full": each layer is computed again in its backward pass.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from tutelage.errors import InputError
from tutelage.model.offload import Left, Offload
from tutelage.model.policy import Policy, layers_of

Random = tuple[torch.Tensor, ...]


@dataclass(eq=False)
class _Call:
    """A layer's call: its input, as a tensor or left to the host, its other arguments, and the state of random numbers before it."""

    hidden: torch.Tensor | Left
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    random: Random


@dataclass(eq=False)
class _Pass:
    """One batch on its way.

    Attributes:
        entering: where in the graph of the embedding the gradient of the first layer's input goes; None: nothing learns there.
        calls: of the layers so far. leaving: the output of the last layer, a leaf of the graph of norm, head and loss.
        gradient: of the output of the layer that comes next on the way back.
    """

    entering: Any = None
    calls: list[_Call] = field(default_factory=list)
    leaving: torch.Tensor | None = None
    gradient: torch.Tensor | None = None


class _Recorded(torch.nn.Module):
    """Stands in the place of a layer while a batch goes forward, and has its attributes."""

    def __init__(self, layer: torch.nn.Module, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        vars(self).update(_layer=layer, _call=call)  # not as a module of its own

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_layer"], name)

    def forward(self, hidden: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        result: torch.Tensor = vars(self)["_call"](hidden, arguments, options)
        return result


class Layered:
    """The batches of one step.

    Make it outside of `Policy.computing`, within which other weights may stand in the place of those that are trained. Call
    `forward` for each batch and `backward` once within it.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.layers = policy, layers_of(policy.model)
        self.passes: list[_Pass] = []
        head, embedding = policy.head.weight, policy.model.get_input_embeddings().weight
        lowest: dict[torch.Tensor, int] = {}
        for index, layer in enumerate(self.layers):
            for weight in layer.parameters():
                lowest.setdefault(weight, index)  # a weight that several layers share is complete after the lowest of them
        self._of_layer = [[weight for weight in lowest if lowest[weight] == index] for index in range(len(self.layers))]
        others = [weight for weight in policy.model.parameters() if weight not in lowest]
        self._of_head = [weight for weight in others if weight is head and weight is not embedding]
        self._of_both = [weight for weight in others if weight not in set(self._of_head)]
        self._offload = Offload(policy.device, (), policy.host) if policy.offload else None
        self._places = [
            (policy.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for layer in self.layers
            for name, module in policy.model.named_modules()
            if module is layer
        ]

    def require_chain(self) -> None:
        """Raises InputError if the model is no chain of layers."""
        ids = torch.arange(2, device=self.policy.device)[None] % self.policy.head.weight.shape[0]
        with self.policy.computing(), self.forward():
            self.policy.model.base_model(input_ids=ids, use_cache=False)
        self.passes.clear()

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Within it, one batch goes through the model, and its loss goes backward through the head and the norm before it.

        Raises:
            InputError: the model is no chain of layers.
        """
        begun = _Pass()
        self.passes.append(begun)
        for index, (parent, name) in enumerate(self._places):
            parent._modules[name] = _Recorded(self.layers[index], self._recorder(begun, index))
        try:
            yield
        finally:
            for layer, (parent, name) in zip(self.layers, self._places, strict=True):
                parent._modules[name] = layer
        if len(begun.calls) != len(self.layers) or begun.leaving is None:
            raise self._refused("does not call each of its layers once")
        begun.gradient, begun.leaving = begun.leaving.grad, None

    def _recorder(self, begun: _Pass, index: int) -> Callable[..., torch.Tensor]:
        def call(hidden: torch.Tensor, arguments: tuple[Any, ...], options: dict[str, Any]) -> torch.Tensor:
            if len(begun.calls) != index:
                raise self._refused("does not call its layers in their order")
            others = (each for each in itertools.chain(arguments, options.values()) if isinstance(each, torch.Tensor))
            if any(each.requires_grad for each in others):
                raise self._refused("hands its layers more that learns than hidden states")
            if index == 0 and hidden.requires_grad:
                begun.entering = torch.autograd.graph.get_gradient_edge(hidden)
            hidden = hidden.detach()
            kept = hidden if self._offload is None else self._offload.leave(hidden)
            begun.calls.append(_Call(kept, arguments, options, self._random()))
            with torch.no_grad():
                leaving = _compute(self.layers[index], hidden, arguments, options)
            if not isinstance(leaving, torch.Tensor):
                raise self._refused("has layers that return more than hidden states")
            if index == len(self.layers) - 1:
                begun.leaving = leaving.requires_grad_()
            return leaving

        return call

    def backward(self, complete: Callable[[torch.Tensor], None]) -> None:
        """All batches backward through the layers. `complete` is called with each weight whose `grad` is that of all batches."""
        self._order()
        for weights in itertools.chain([self._of_head], self._through_layers(), self._through_embedding()):
            for weight in weights:
                if weight.grad is not None:
                    complete(weight)

    def _through_layers(self) -> Iterator[list[torch.Tensor]]:
        """The weights of each layer, from the last one, as soon as they are complete."""
        for layer, weights in zip(reversed(self.layers), reversed(self._of_layer), strict=True):
            for each in self.passes:
                call, gradient = each.calls.pop(), each.gradient
                hidden = call.hidden if self._offload is None else self._offload.fetch(call.hidden)
                assert isinstance(hidden, torch.Tensor)
                hidden = hidden.detach().requires_grad_()
                self._set_random(call.random)
                with torch.enable_grad():
                    leaving = _compute(layer, hidden, call.arguments, call.options)
                each.gradient = None  # the last one that holds it is `gradient`
                torch.autograd.backward(leaving, gradient)
                each.gradient = hidden.grad
                del leaving, gradient, hidden, call
            yield weights

    def _through_embedding(self) -> Iterator[list[torch.Tensor]]:
        """The weights outside of the layers, but for an untied head."""
        for each in self.passes:
            if each.entering is not None:
                torch.autograd.backward(each.entering, each.gradient)
            each.entering = each.gradient = None
        yield self._of_both

    def _order(self) -> None:
        """Inputs that wait in the host's memory come back in the order in which they are wanted."""
        if self._offload is not None:
            calls = [each.calls[index].hidden for index in range(len(self.layers)) for each in reversed(self.passes)]
            self._offload.reorder([call for call in calls if isinstance(call, Left)])

    def _random(self) -> Random:
        device = self.policy.device
        on_device = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
        return (torch.get_rng_state(), *on_device)

    def _set_random(self, state: Random) -> None:
        torch.set_rng_state(state[0])
        for on_device in state[1:]:
            torch.cuda.set_rng_state(on_device, self.policy.device)

    def _refused(self, why: str) -> InputError:
        return InputError(
            f'train.update = "in_backward" with several batches in a step: {type(self.policy.model).__name__} {why}, so its layers'
            ' cannot go backward one by one; let a step be one pack (a larger train.pack_tokens), or write train.update = "step"'
        )


def _compute(layer: torch.nn.Module, hidden: torch.Tensor, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The output of a layer, without the checkpointing that its class adds."""
    return torch.nn.Module.__call__(layer, hidden, *arguments, **options)
