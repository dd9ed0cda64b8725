"""From a scene to pictures, with gradients, and the losses on them."""
