"""Several prompts in a row, what became of each in a table: python examples/batch.py [FOLDER]

A run that fails, say with an empty scene, costs its row and not the batch.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from dreamfusion_ngp import DreamfusionError, RunConfig, generate, preset

PROMPTS = ("a red mug", "a blue chair", "a yellow duck")


def make(config: RunConfig, root: Path) -> dict[str, str]:
    """One row of the table."""
    try:
        result = generate(config, root)
    except DreamfusionError as error:
        return {"prompt": config.prompt, "steps": "-", "seconds": "-", "result": str(error)}
    return {
        "prompt": config.prompt,
        "steps": str(result.made),
        "seconds": f"{result.seconds:.0f}",
        "result": str(result.meshes["glb"]),
    }


def batch(config: RunConfig, root: Path, prompts: tuple[str, ...] = PROMPTS) -> list[dict[str, str]]:
    """A row for each prompt, with the settings of `config`."""
    return [make(replace(config, prompt=prompt), root) for prompt in prompts]


def table(rows: list[dict[str, str]]) -> str:
    """The rows as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table(batch(preset("fast"), Path(sys.argv[1] if sys.argv[1:] else "outputs"))))
