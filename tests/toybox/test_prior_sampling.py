"""Samples of the embedded prior and the sheet of them."""

import torch
from PIL import Image

from dreamfusion_ngp.toybox.prior.sampling import SHEET_VIEWS, sheet
from dreamfusion_ngp.toybox.world.shapes import CLASSES


def test_a_sheet_has_a_row_for_every_class(tmp_path, monkeypatch):
    """An untextured picture is at its end."""
    asked = []

    def painted(prior, texts, **settings):
        asked.extend(texts)
        return torch.rand(len(texts), 64, 64, 3)

    monkeypatch.setattr("dreamfusion_ngp.toybox.prior.sampling.sample", painted)
    sheet(None, tmp_path / "sheet.png")
    rows, columns = len(CLASSES), len(SHEET_VIEWS) + 1
    assert len(asked) == rows * columns and sum("clay" in text for text in asked) == rows
    assert len({text.split(",")[0] for text in asked if "clay" not in text}) == rows
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (2 * 64 * columns, 64 * rows // 2)
