"""The kernels as differentiable functions of tensors, one module per op; `reference` holds their slow torch twins."""
