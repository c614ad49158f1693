"""What a scanner, a position of the head or an export changes in a slice, drawn anew for each: recipe `strong`.

All of it runs on the device, a batch at a time, with a generator of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from hemoscan.card import InputSpec

ROTATION_DEGREES = 25.0
ZOOM = 1.2
SHIFT = 0.08
"""Of the side."""
OFFSET_HU = 4.0
TISSUE_HU = 30.0
"""About which contrast changes in slices that are not brought to a common level: as in `hemoscan.card.HEAD`."""
GAIN = 1.5
"""By which a slice's contrast is raised or lowered at most: an export at 40/120 HU that is taken for one at 40/80."""
NOISE_HU = 4.0


def augment(
    images: Tensor,
    spec: InputSpec,
    generator: torch.Generator,
    *,
    geometry: bool = True,
    hu: bool = True,
) -> Tensor:
    """Return changed copies of slices: mirrored, turned, zoomed, shifted, offset, scaled, sharpened or blurred, noisy.

    Parameters
    ----------
    images
        Shape (n, size, size), HU, float.
    spec
        The network's input. What was clipped to its lowest and highest HU, air and bone, is not offset and has no
        noise, as in a slice whose window was applied after both. Contrast changes about its level of tissue; without
        one, about 30 HU.
    generator
        On the images' device. The same state gives the same changes.
    geometry
        Whether slices are mirrored, turned, zoomed and shifted.
    hu
        Whether they are offset, scaled, sharpened or blurred, and noisy.
    """
    moved = _move(images, generator) if geometry else images
    if not hu:
        return moved
    softened = _soften(moved, generator)
    low, high = spec.limits
    inside = (softened > low + 0.5) & (softened < high - 0.5)
    about = TISSUE_HU if spec.tissue is None else spec.tissue
    return torch.where(inside, _disturb(softened, about, generator), softened).clamp(low, high)


def _move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, turn, zoom and shift each slice about its centre; air comes in from outside."""
    n = len(images)
    angle = math.radians(ROTATION_DEGREES) * _even(images, generator)
    scale = torch.exp(math.log(ZOOM) * _even(images, generator))
    mirror = _even(images, generator).sign()
    shift = SHIFT * 2 * torch.stack([_even(images, generator), _even(images, generator)], 1)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], 1).view(n, 2, 2)
    grid = affine_grid(torch.cat([matrix, shift[:, :, None]], 2), [n, 1, *images.shape[1:]], align_corners=False)
    return grid_sample(images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]


def _soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the slices and sharpen the others, as kernels do."""
    blurred = avg_pool2d(images[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    return images + (0.7 * _even(images, generator))[:, None, None] * (blurred - images)


def _disturb(images: Tensor, about: float, generator: torch.Generator) -> Tensor:
    offset = about + OFFSET_HU * _even(images, generator)
    share = _even(images, generator)
    gain = torch.exp(math.log(GAIN) * share * share.abs())  # half of the slices change by a tenth or less
    level = NOISE_HU * _even(images, generator).clamp(min=0)  # half of the slices have none
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images - about) * gain[:, None, None] + offset[:, None, None] + level[:, None, None] * noise


def _even(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a number from -1 to 1 for each slice."""
    return 2 * torch.rand(len(images), generator=generator, device=images.device) - 1
