"""Functions captured in CUDA graphs: one launch replays all of their kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Capture(Protocol):
    """Captures a function for replay: capture(function) -> (replay, what the function returned, which every replay
    fills)."""

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]: ...

    def warm(self, function: Callable[[], Any]) -> Any:
        """Call the function without capturing it, on the stream where it would be captured."""


class CudaCapture:
    """Captures functions into CUDA graphs that share a memory pool: they must be replayed in the order of their
    capture, or leave nothing in the pool but what they return."""

    def __init__(self):
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            returned = function()
        return graph.replay, returned

    def warm(self, function: Callable[[], Any]) -> Any:
        """On the capture stream: autograd remembers on which stream it first met a parameter, and a capture must not
        wait for another stream."""
        outside = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            returned = function()
        outside.wait_stream(self.stream)
        return returned


class Repeated:
    """A function of tensors that is called many times with the same shapes: uncaptured at first, then captured with
    input buffers that every call fills. Its results are valid until the next call."""

    WARM = 3  # uncaptured calls: kernels are loaded, and optimisers allocate their state

    def __init__(self, function: Callable[..., Any], capture: Capture):
        self.function, self.capture, self.calls, self.replay = function, capture, 0, None

    def __call__(self, *inputs: Tensor) -> Any:
        self.calls += 1
        if self.calls <= self.WARM:
            return self.capture.warm(lambda: self.function(*inputs))
        if self.replay is None:
            self.inputs = [value.clone() for value in inputs]
            self.replay, self.returned = self.capture(lambda: self.function(*self.inputs))
        for kept, value in zip(self.inputs, inputs, strict=True):
            kept.copy_(value)
        self.replay()
        return self.returned


class Replayed:
    """A network without gradients, captured once (`Repeated`) for every signature that it is called with: the shapes of
    its tensors, which may be in nested dictionaries, and the values of all other arguments."""

    def __init__(self, network: Callable[..., Any], capture: Capture):
        self.network, self.capture, self.forwards = network, capture, {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors: list[Tensor] = []
        plan = take_out(dict(enumerate(args)) | kwargs, tensors)
        if plan not in self.forwards:

            def forward(*inputs: Tensor) -> Any:
                arguments = put_back(plan, iter(inputs))
                positional = [arguments.pop(i) for i in range(len(args))]
                return self.network(*positional, **arguments)

            self.forwards[plan] = Repeated(forward, self.capture)
        return self.forwards[plan](*tensors)


def take_out(arguments: dict, tensors: list[Tensor]) -> tuple:
    """Append the tensors of nested dictionaries to `tensors`; returns the structure around them, which is hashable."""
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
    """Inverse of `take_out`: the dictionaries that gave `plan`, with tensors from the iterator `tensors`."""
    return {
        name: next(tensors) if kind == "tensor" else put_back(value, tensors) if kind == "dictionary" else value
        for name, kind, value in plan
    }
