"""How an op becomes one of torch's: `Op` declares it, then takes its kernel, the shapes of its outputs, its backward.

Arguments come in groups, each a NamedTuple, and functions take the groups: what an argument is called is written once.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, ForwardRef, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

NAMESPACE = "dreamfusion_ngp"
DEVICES = ("cpu", "cuda")
SCHEMA_TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
}


def tensors(names: str) -> Any:
    """A group of arguments that are all tensors, such as "grad_y x": a class of NamedTuples."""
    group: Any = namedtuple("Tensors", names)
    group.__annotations__ = dict.fromkeys(group._fields, ForwardRef("Tensor"))
    return group


class Saved(NamedTuple):
    """What a backward is given."""

    inputs: Sequence[Any]  # the groups of the op's arguments
    outputs: tuple[Tensor, ...]  # () unless the op keeps them
    wanted: dict[str, bool]  # which arguments need a gradient


class Op:
    """An op of torch.ops.dreamfusion_ngp. Call it with groups of arguments, or with the arguments themselves.

    name     of the op
    groups   its arguments: classes of NamedTuples, whose annotations are Tensor, Tensor | None, int, float, bool or str
    returns  names of the tensors that it returns, "" for none
    changes  names of the arguments that it changes in place; the caller checks that these are contiguous
    """

    def __init__(self, name: str, *groups: type[NamedTuple], returns: str, changes: str = "") -> None:
        self.name, self.groups, self.changes = f"{NAMESPACE}::{name}", groups, frozenset(changes.split())
        types = dict(chain.from_iterable(group.__annotations__.items() for group in groups))
        self.fields = tuple(types)
        self.holds_tensor = [i for i, field in enumerate(types) if "Tensor" in types[field].__forward_arg__]
        ends = list(accumulate((len(group._fields) for group in groups), initial=0))
        self.parts = [(group._make, slice(*ends)) for group, ends in zip(groups, pairwise(ends), strict=True)]
        arguments = ", ".join(f"{self._type(field, types[field])} {field}" for field in self.fields)
        outputs = [f"Tensor {output}" for output in returns.split()]
        torch.library.define(
            self.name, f"({arguments}) -> " + (outputs[0] if len(outputs) == 1 else f"({', '.join(outputs)})")
        )
        self.overload = getattr(getattr(torch.ops, NAMESPACE), name).default

    def _type(self, field: str, annotation: ForwardRef) -> str:
        if field in self.changes:
            return f"Tensor({chr(ord('a') + self.fields.index(field))}!)"
        return SCHEMA_TYPES[annotation.__forward_arg__]

    def __call__(self, *arguments: Any) -> Any:
        flat = []
        for argument in arguments:
            if isinstance(argument, tuple):
                flat += argument
            else:
                flat.append(argument)
        return self.overload(*flat)

    def _grouped(self, flat: Sequence) -> list[tuple]:
        return [make(flat[part]) for make, part in self.parts]

    def shapes(self, function: Callable) -> Callable:
        """Decorator of function(*groups) -> the outputs, of their shapes and types, with nothing in them."""
        torch.library.register_fake(self.name, lambda *flat: function(*self._grouped(flat)))
        return function

    def kernel(self, function: Callable) -> Callable:
        """Decorator of function(*groups) -> the outputs, for the CPU and CUDA; it gets contiguous tensors."""

        changed = [self.fields.index(field) for field in sorted(self.changes)]

        def run(*flat):
            packed = list(flat)
            for i in self.holds_tensor:
                if packed[i] is not None and not packed[i].is_contiguous():
                    packed[i] = packed[i].contiguous()
            found = function(*self._grouped(packed))
            if changed:
                increment_version([flat[i] for i in changed])
            return found

        torch.library.impl(self.name, DEVICES)(run)
        return function

    def backward(self, function: Callable, *, keep_outputs: bool = False) -> Callable:
        """Decorator of function(saved, *gradients of the outputs) -> {argument: its gradient}."""

        def save(ctx, inputs, output):
            outputs = output if isinstance(output, tuple) else (output,)
            ctx.mark_non_differentiable(*(v for v in outputs if not v.is_floating_point()))
            kept = (*inputs, *outputs) if keep_outputs else inputs
            ctx.save_for_backward(*(v if isinstance(v, Tensor) else None for v in kept))
            ctx.others = [None if isinstance(v, Tensor) else v for v in kept]

        def differentiate(ctx, *gradients):
            kept = [other if v is None else v for v, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
            inputs, outputs = self._grouped(kept), tuple(kept[len(self.fields) :])
            wanted = dict(zip(self.fields, ctx.needs_input_grad, strict=True))
            found = function(Saved(inputs, outputs, wanted), *gradients)
            return tuple(found.get(field) for field in self.fields)

        torch.library.register_autograd(self.name, differentiate, setup_context=save)
        return function

    def final(self, message: str) -> None:
        """This op has no derivative; whoever asks for it gets a RuntimeError."""

        def refuse(ctx, *gradients):
            raise RuntimeError(message)

        torch.library.register_autograd(self.name, refuse)
