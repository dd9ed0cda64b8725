"""Samples of the embedded prior and the sheet of them."""

import torch
from PIL import Image

from dreamfusion_ngp.toybox.prior.sampling import SHEET_VIEWS, sheet
from dreamfusion_ngp.toybox.world.shapes import CLASSES


def test_a_sheet_can_have_several_colours(tmp_path, monkeypatch):
    """A row for every class in each of them, an untextured picture at its end."""
    asked = []

    def painted(prior, texts, **settings):
        asked.extend(texts)
        return torch.rand(len(texts), 64, 64, 3)

    monkeypatch.setattr("dreamfusion_ngp.toybox.prior.sampling.sample", painted)
    sheet(None, tmp_path / "sheet.png", colors_per_class=2)
    rows, columns = 2 * len(CLASSES), len(SHEET_VIEWS) + 1
    assert len(asked) == rows * columns and sum("clay" in text for text in asked) == rows
    assert len({text.split(",")[0] for text in asked if "clay" not in text}) == rows
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (2 * 64 * columns, 64 * rows // 2)
