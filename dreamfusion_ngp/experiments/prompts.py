"""Prompts of the experiments: toys of the embedded world."""

# Four toys with distinct front and back, and two with a hole or flat walls.
SIX = ("a red mug", "a yellow chair", "a green duck", "a blue airplane", "an orange torus", "a purple house")

# Drawn once, all classes and then four again, colours in turn (tests/experiments/test_ablation.py draws it again). The
# bars of the evaluation are measured on it: improve the method, not the list.
TWENTY_FOUR = (
    "a brown mushroom",
    "a blue mug",
    "a cyan house",
    "a green tree",
    "an orange duck",
    "a purple teapot",
    "a gray chair",
    "a yellow snowman",
    "a pink rocket",
    "a white lamp",
    "a red sphere",
    "a brown car",
    "a blue torus",
    "a cyan cube",
    "a green cylinder",
    "an orange airplane",
    "a purple boat",
    "a gray pyramid",
    "a yellow cone",
    "a pink table",
    "a white mug",
    "a red pyramid",
    "a brown cone",
    "a blue cube",
)
