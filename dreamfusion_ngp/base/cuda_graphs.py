"""Functions kept in CUDA graphs: one launch instead of the many that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Capture(Protocol):
    """What keeps functions for later runs: capture(function) -> (run, what the function returned: every run fills
    it)."""

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]: ...

    def warm(self, function: Callable[[], Any]) -> Any:
        """The function as it is, where it would be captured."""


class CudaCapture:
    """Captures functions into CUDA graphs that share memory: they must run in the order in which they were captured, or
    leave nothing in it but what they return."""

    def __init__(self):
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            returned = function()
        return graph.replay, returned

    def warm(self, function: Callable[[], Any]) -> Any:
        """On the stream of the captures: autograd remembers on which stream it first met a parameter, and a capture
        must not wait for another one."""
        outside = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            returned = function()
        outside.wait_stream(self.stream)
        return returned


class Repeated:
    """A function of tensors that is called again and again with tensors of the same shapes: as it is at first, then
    captured with inputs of its own, which every call fills. What it returns holds until the next call."""

    WARM = 3  # calls: kernels are loaded, and optimisers make their state

    def __init__(self, function: Callable[..., Any], capture: Capture):
        self.function, self.capture, self.calls, self.run = function, capture, 0, None

    def __call__(self, *inputs: Tensor) -> Any:
        self.calls += 1
        if self.calls <= self.WARM:
            return self.capture.warm(lambda: self.function(*inputs))
        if self.run is None:
            self.inputs = [value.clone() for value in inputs]
            self.run, self.returned = self.capture(lambda: self.function(*self.inputs))
        for kept, value in zip(self.inputs, inputs, strict=True):
            kept.copy_(value)
        self.run()
        return self.returned


class Replayed:
    """A network without gradients whose forward is `Repeated`, once for every set of shapes that it is called with. Its
    arguments may be tensors, and dictionaries that hold some; whatever else is in them decides, as shapes do."""

    def __init__(self, network: Callable[..., Any], capture: Capture):
        self.network, self.capture, self.forwards = network, capture, {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors: list[Tensor] = []
        plan = take_out(dict(enumerate(args)) | kwargs, tensors)
        if plan not in self.forwards:

            def forward(*inputs: Tensor) -> Any:
                given = put_back(plan, iter(inputs))
                positional = [given.pop(i) for i in range(len(args))]
                return self.network(*positional, **given)

            self.forwards[plan] = Repeated(forward, self.capture)
        return self.forwards[plan](*tensors)


def take_out(arguments: dict, tensors: list[Tensor]) -> tuple:
    """Append the tensors of nested dictionaries to `tensors`; returns what is left, which can be a key."""
    plan = []
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            tensors.append(value)
            plan.append((name, "tensor", (value.shape, value.dtype)))
        else:
            plan.append(
                (name, "dictionary", take_out(value, tensors)) if isinstance(value, dict) else (name, "value", value)
            )
    return tuple(plan)


def put_back(plan: tuple, tensors) -> dict:
    """The dictionaries of which `take_out` made `plan`, with tensors from the iterator `tensors`."""
    return {
        name: next(tensors) if kind == "tensor" else put_back(value, tensors) if kind == "dictionary" else value
        for name, kind, value in plan
    }
