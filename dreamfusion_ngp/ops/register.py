"""How an op is registered with torch: `Op` declares it; its kernel, output shapes and backward are added by decorators.

Arguments come in groups, each a NamedTuple, and functions take the groups, so every argument is named only once.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, ForwardRef, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
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
    """The saved values that a backward function gets."""

    inputs: Sequence[Any]  # the groups of the op's arguments
    outputs: tuple[Tensor, ...]  # () unless the op keeps them
    needs_grad: dict[str, bool]  # which arguments need a gradient


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
        self.group_slices = [(group._make, slice(*ends)) for group, ends in zip(groups, pairwise(ends), strict=True)]
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
        if forward_ad._current_level >= 0:
            self._refuse_tangents(flat)
        return self.overload(*flat)

    def _grouped(self, flat: Sequence) -> list[tuple]:
        return [make(flat[part]) for make, part in self.group_slices]

    def _packed(self, flat: Sequence) -> list:
        """The arguments as a kernel takes them. Outputs made like these have the same strides, fake or not."""
        packed = list(flat)
        for i in self.holds_tensor:
            if packed[i] is not None and not packed[i].is_contiguous():
                packed[i] = packed[i].contiguous()
        return packed

    def _refuse_tangents(self, flat: Sequence) -> None:
        """torch would drop them, and a derivative that is not there would be zero."""
        if any(forward_ad.unpack_dual(v).tangent is not None for v in flat if isinstance(v, Tensor)):
            name = self.name.partition("::")[2]
            raise RuntimeError(f"{name}: no forward-mode derivative (jvp); differentiate it backward, as by autograd")

    def shapes(self, function: Callable) -> Callable:
        """Decorator of function(*groups) -> empty outputs of the right shapes and types."""
        torch.library.register_fake(self.name, lambda *flat: function(*self._grouped(self._packed(flat))))
        return function

    def kernel(self, function: Callable) -> Callable:
        """Decorator of function(*groups) -> the outputs, for the CPU and CUDA; it gets contiguous tensors."""

        changed = [self.fields.index(field) for field in sorted(self.changes)]

        def call(*flat):
            outputs = function(*self._grouped(self._packed(flat)))
            if changed:
                increment_version([flat[i] for i in changed])
            return outputs

        torch.library.impl(self.name, DEVICES)(call)
        return function

    def backward(self, function: Callable, *, keep_outputs: bool = False) -> Callable:
        """Decorator of function(saved, *gradients of the outputs) -> {argument: its gradient}."""

        def save(ctx, inputs, output):
            outputs = output if isinstance(output, tuple) else (output,)
            ctx.mark_non_differentiable(*(v for v in outputs if not v.is_floating_point()))
            values = (*inputs, *outputs) if keep_outputs else inputs
            ctx.save_for_backward(*(v if isinstance(v, Tensor) else None for v in values))
            ctx.others = [None if isinstance(v, Tensor) else v for v in values]

        def differentiate(ctx, *gradients):
            values = [other if v is None else v for v, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
            inputs, outputs = self._grouped(values), tuple(values[len(self.fields) :])
            needs_grad = dict(zip(self.fields, ctx.needs_input_grad, strict=True))
            gradient_of = function(Saved(inputs, outputs, needs_grad), *gradients)
            return tuple(gradient_of.get(field) for field in self.fields)

        torch.library.register_autograd(self.name, differentiate, setup_context=save)
        return function

    def final(self, message: str) -> None:
        """This op has no derivative: differentiating it raises RuntimeError."""

        def refuse(ctx, *gradients):
            raise RuntimeError(message)

        torch.library.register_autograd(self.name, refuse)
