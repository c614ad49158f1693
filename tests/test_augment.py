"""Random changes of slices: bounded, repeatable, each slice its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hemoscan.card import HEAD
from hemoscan.trainer import augment as module
from hemoscan.trainer.augment import augment


def slices(n: int = 64, size: int = 48) -> Tensor:
    """Discs of tissue with a bright spot, in air."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = torch.hypot(rows - size / 2 + 0.5, columns - size / 2 + 0.5)
    image = torch.where(distance < size / 4, 30.0, 0.0)
    image[size // 2 - 3 : size // 2 + 3, size // 2 + 2 : size // 2 + 8] = 60.0
    return image.repeat(n, 1, 1)


def changed(seed: int = 0, n: int = 64) -> Tensor:
    return augment(slices(n), HEAD, torch.Generator().manual_seed(seed))


def test_values_stay_within_the_window_and_shapes_are_kept():
    images = changed()
    assert images.shape == (64, 48, 48)
    assert images.min() >= 0
    assert images.max() <= 70


def test_the_same_seed_gives_the_same_and_another_gives_others():
    assert torch.equal(changed(1), changed(1))
    assert not torch.equal(changed(1), changed(2))


def test_each_slice_is_changed_in_its_own_way():
    images = changed()
    assert len(torch.unique(images.flatten(1), dim=0)) == len(images)


def test_the_slices_given_stay():
    images = slices()
    before = images.clone()
    augment(images, HEAD, torch.Generator().manual_seed(0))
    assert torch.equal(images, before)


def test_air_stays_air():
    assert (changed()[:, 0, :] == 0).all()


def test_bone_stays_bone():
    images = slices()
    images[:, 20:28, 16:24] = 70.0
    found = augment(images, HEAD, torch.Generator().manual_seed(0), geometry=False)
    assert (found[:, 22:26, 18:22] == 70).all(), "but for its edge, which is blurred or sharpened"


def test_geometry_and_hu_are_changed_apart():
    images, generator = slices(), torch.Generator()
    moved = augment(images, HEAD, generator.manual_seed(0), hu=False)
    disturbed = augment(images, HEAD, generator.manual_seed(0), geometry=False)
    assert (moved.sub(images).abs().amax((1, 2)) > 5).all()
    assert moved.amax((1, 2)).le(images.amax((1, 2)) + 1e-3).all(), "no HU beyond those that were there"
    assert ((disturbed == 0) == (images == 0))[:, :8].all(), "nothing moves"
    assert (disturbed[:, 22:26, 14:18].mean((1, 2)) != 30).all()


def test_the_level_of_tissue_moves_by_the_offset_only_as_far_as_said():
    plain = slices(256).clamp(max=30)
    inner = augment(plain, HEAD, torch.Generator().manual_seed(0))[:, 22:26, 22:26].mean((1, 2))
    noise = 3  # of the mean of 16 pixels: three times its standard deviation
    assert inner.min() > 30 - module.OFFSET_HU - noise
    assert inner.max() < 30 + module.OFFSET_HU + noise
    assert inner.std() > 1.5


def test_contrast_is_raised_and_lowered_about_the_level_of_tissue(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "OFFSET_HU", 0.0)
    monkeypatch.setattr(module, "NOISE_HU", 0.0)
    halves = torch.full((256, 48, 48), 30.0)
    halves[:, :, 24:] = 40.0
    found = augment(halves, HEAD, torch.Generator().manual_seed(0))[:, 20:28, 8:40]
    assert torch.isclose(found, torch.tensor(30.0)).any((1, 2)).all()
    contrast = (found.amax((1, 2)) - 30) / 10
    assert 1 / module.GAIN - 0.01 <= contrast.min() < 0.8
    assert contrast.max() > 1.25
    assert 0.3 < ((contrast > 0.9) & (contrast < 1.1)).float().mean() < 0.7


def test_contrast_changes_about_the_same_level_where_slices_are_not_brought_to_one():
    unaligned = augment(slices(), replace(HEAD, tissue=None), torch.Generator().manual_seed(0))
    assert torch.equal(unaligned, changed())


def test_slices_are_mirrored_both_ways():
    spot = (changed(n=256) > 45).float()
    columns = torch.arange(48).float()
    where = (spot.sum(1) * columns).sum(1) / spot.sum((1, 2)).clamp(min=1)
    left = (where < 23.5).float().mean()
    assert 0.3 < left < 0.7


@pytest.mark.parametrize("seed", range(3))
def test_heads_keep_their_size_within_the_zoom(seed: int):
    area = (changed(seed) > 10).float().sum((1, 2)) / (slices() > 10).float().sum((1, 2))
    assert area.min() > 0.8 / module.ZOOM**2
    assert area.max() < 1.25 * module.ZOOM**2
    assert area.max() / area.min() > 1.3
