"""What a CUDA graph does, on the CPU: the calls of operators that a function makes are kept with the numbers and the
tensors that it gave them, and made again, in the same memory, whenever the tape is run."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators that read values, or whose result has a size that depends on them.
READS = {
    "_local_scalar_dense",
    "item",
    "equal",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "is_nonzero",
    "bincount",
}
FORBIDDEN = READS | {
    "lift_fresh",
    "lift_fresh_copy",
}  # what no graph can hold: tensors made from numbers of the host too


class NotForGraphs(AssertionError):
    """A function that is being captured does what would stop a CUDA graph's capture."""


class Recorder(TorchDispatchMode):
    """Keeps (operator, arguments, named arguments, results) of every call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._overloadpacket.__name__
        masks = [i for i in tree_leaves(args) if getattr(i, "dtype", None) in (torch.bool, torch.uint8)]
        if name in FORBIDDEN or (name.startswith("index") and masks):
            raise NotForGraphs(f"{name} in a function that is being captured")
        results = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, results))
        return results


class Tape:
    """A capture for `graphs.Graphed`: tape(function) -> (run, what the function returned). Unlike a CUDA graph's it has
    its effects already when it is made, so the first run does nothing."""

    def __init__(self):
        self.captured, self.runs = 0, 0

    def __call__(self, function):
        with Recorder() as recorder:
            returned = function()
        self.captured += 1
        made = [True]

        def run():
            self.runs += 1
            if not (made and made.pop()):
                replay(recorder.calls)

        return run, returned

    def warm(self, function):
        return function()


@torch.no_grad()
def replay(calls) -> None:
    """Make the calls again; what they return goes to the memory of the first results."""
    for function, args, kwargs, results in calls:
        for old, new in zip(tree_leaves(results), tree_leaves(function(*args, **kwargs)), strict=True):
            if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)
