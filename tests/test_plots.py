"""Pictures hold the panels, counts and lines that they should, and the same figure gives the same bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import draw, drawn_history

from hemoscan.card import MODEL_NAMES
from hemoscan.trainer.metrics import at_threshold, probabilities
from hemoscan.trainer.plots import Curve, confusion_figure, curves_figure, losses_figure, save_picture


def matrix(seed: int = 0) -> dict[str, float | int]:
    labels, _, logits = draw(1500, seed)
    return at_threshold(logits > 0, labels)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
def test_a_confusion_panel_for_each_row(count: int):
    matrices = {name: matrix(seed) for seed, name in enumerate(MODEL_NAMES[:count])}
    figure = confusion_figure(matrices)
    assert [axes.get_title() for axes in figure.axes] == list(matrices)
    for axes, one in zip(figure.axes, matrices.values(), strict=True):
        texts = [text.get_text().splitlines() for text in axes.texts]
        keys = ("true_negatives", "false_positives", "false_negatives", "true_positives")
        assert [counts for counts, _ in texts] == [f"{one[key]:,}" for key in keys]
        assert float(texts[3][1].rstrip("%")) == pytest.approx(100 * one["recall"], abs=0.051)
        (image,) = axes.images
        assert image.get_array().sum(axis=1).tolist() == pytest.approx([1, 1])


def test_long_titles_are_broken():
    figure = confusion_figure({"densenet-weight-bias (5 folds, 12 epochs, from ImageNet)": matrix()})
    lines = figure.axes[0].get_title().splitlines()
    assert lines == ["densenet-weight-bias", "(5 folds, 12 epochs, from", "ImageNet)"]
    assert max(map(len, lines)) <= 30


def curves(*labels: str) -> list[Curve]:
    found = []
    for seed, label in enumerate(labels):
        drawn, _, logits = draw(100, seed)
        found.append(Curve(label, probabilities(logits), drawn))
    return found


def test_a_curve_of_either_kind_for_each_row():
    names = ["densenet-base", "resnet-base", "densenet-bias", "baseline: lookup"]
    figure = curves_figure(curves(*names))
    roc, precision_recall = figure.axes
    assert [line.get_label() for line in roc.lines[:4]] == names
    assert len(precision_recall.lines) == 4 + 1, "and the share of positives"
    looks = [(line.get_linestyle(), line.get_color()) for line in roc.lines[:4]]
    assert [style for style, _ in looks] == ["-", "--", "-", ":"]
    assert looks[0][1] == looks[1][1] != looks[2][1], "the colour tells the variant"
    for line in roc.lines[:4]:
        x, y = line.get_data()
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_eight_rows_look_different():
    figure = curves_figure(curves(*MODEL_NAMES))
    looks = {(line.get_linestyle(), line.get_color()) for line in figure.axes[0].lines[:8]}
    assert len(looks) == 8


def test_a_loss_line_for_each_fold_and_one_entry_in_the_legend():
    histories = {"densenet-base": [drawn_history(3)], "densenet-bias": [drawn_history(2)] * 5}
    figure = losses_figure(histories)
    loss, auc = figure.axes
    assert len(loss.lines) == len(auc.lines) == 6
    assert loss.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.25, 0.5 / 3])
    assert auc.lines[1].get_ydata().tolist() == pytest.approx([0.7, 0.8])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(histories)


def test_a_picture_is_a_png_of_the_same_bytes(tmp_path: Path):
    contents = []
    for name in "ab":
        save_picture(curves_figure(curves("densenet-base")), tmp_path / f"{name}.png")
        contents.append((tmp_path / f"{name}.png").read_bytes())
    assert contents[0] == contents[1]
    with Image.open(io.BytesIO(contents[0])) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10, "not blank"
        assert "Software" not in image.info
    assert len(contents[0]) < 200_000


def test_no_title_is_cut_off():
    for figure in (
        curves_figure(curves(*MODEL_NAMES, "baseline: lookup")),
        losses_figure({name: [drawn_history(7)] for name in MODEL_NAMES}),
        confusion_figure({name: matrix() for name in MODEL_NAMES}),
    ):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=50)
        height = figure.bbox.height
        for axes in figure.axes:
            box = axes.title.get_window_extent()
            assert box.y1 <= height
            assert box.x0 >= 0
