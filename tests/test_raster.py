"""PNG and JPEG to HU: which of the three kinds a picture is, and what then becomes of its grey values."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image
from strategies import shapes

from hemoscan.errors import ImageError, NotForModelError
from hemoscan.raster import read_raster
from hemoscan.slices import OUT_OF_DISTRIBUTION
from hemoscan.stretched import guess_window


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def head(*, skull: int = 70, brain: int = 32, size: int = 64, spread: float = 3) -> NDArray[np.uint8]:
    """Return grey values of a disc of brain, between `brain` - `spread` and + `spread`, in a ring of skull, in air."""
    row, column = np.mgrid[:size, :size]
    radius = np.hypot(row - size / 2, column - size / 2)
    texture = brain + spread * ((row * 5 + column * 3) % 7 / 3 - 1)
    return np.where(radius < 0.38 * size, texture, np.where(radius < 0.44 * size, skull, 0)).astype(np.uint8)


EXPORT_WINDOWS = [
    (40, 40),
    (40, 80),
    (40, 120),
    (60, 120),
    (50, 100),
    (75, 215),
    (80, 200),
    (50, 350),
    (40, 400),
    (500, 2000),
    (600, 2800),
    (300, 1500),
]


def export(window: tuple[int, int], brain: int) -> NDArray[np.uint8]:
    """Return a head whose 0 to 255 span a window (centre, width), with brain of about so many HU, 9 more or less."""
    centre, width = window
    return head(skull=255, brain=round((brain - centre + width / 2) / width * 255), spread=9 / width * 255)


def ramp() -> NDArray[np.uint8]:
    """Return 0 to 115, as the data set's values are."""
    return (np.arange(30 * 40) % 116).astype(np.uint8).reshape(30, 40)


def as_mode(mode: str) -> Image.Image:
    grey = Image.fromarray(ramp())
    if mode in ("LA", "RGBA"):
        image = grey.convert(mode)
        image.putalpha(Image.fromarray((np.arange(1200) % 256).astype(np.uint8).reshape(30, 40)))
        return image
    if mode == "P":
        image = Image.fromarray(255 - ramp())
        image.putpalette([255 - index // 3 for index in range(768)])
        return image
    return grey.convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P"])
def test_eight_bits_are_hu_in_every_mode(mode: str):
    hu, notes = read_raster(encode(as_mode(mode)))
    assert np.array_equal(hu, ramp())
    assert hu.dtype == np.float32
    assert notes == ("grey taken as HU",)


@pytest.mark.parametrize("transparency", [3, b"\x00\x80\xff"], ids=["one index", "a table"])
def test_a_palette_with_transparency(transparency: int | bytes):
    hu, _ = read_raster(encode(as_mode("P"), transparency=transparency))
    assert np.array_equal(hu, ramp())


def test_one_bit():
    bits = np.indices((8, 8)).sum(axis=0) % 2 == 1
    hu, notes = read_raster(encode(Image.fromarray(bits)), (40, 80))
    assert np.array_equal(hu, np.where(bits, 80, 0))
    assert notes == ("png-window 40,80 declared",)


def test_sixteen_bits_are_hu_plus_1024():
    values = np.array([[0, 1024, 1064], [1094, 4095, 65535]], np.uint16)
    hu, notes = read_raster(encode(Image.fromarray(values)))
    assert np.array_equal(hu, values.astype(float) - 1024)
    assert notes == ("16-bit grey taken as HU + 1024",)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_close(mode: str):
    smooth = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)
    hu, notes = read_raster(encode(Image.fromarray(smooth).convert(mode), "JPEG", quality=95))
    assert np.abs(hu - smooth).max() <= 3
    assert notes == ("grey taken as HU",)


class TestColour:
    def test_a_colour_picture_is_skipped(self):
        pixels = np.zeros((20, 20, 3), np.uint8)
        pixels[:, :, 0] = 200
        with pytest.raises(NotForModelError, match="colour"):
            read_raster(encode(Image.fromarray(pixels)))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_a_coloured_mark_on_a_slice_is_enough(self, kind: str):
        pixels = np.repeat(head()[:, :, None], 3, axis=2)
        pixels[4:12, 4:12] = (255, 0, 0)
        with pytest.raises(NotForModelError):
            read_raster(encode(Image.fromarray(pixels), kind))

    def test_channels_that_differ_by_rounding_are_grey(self):
        pixels = np.repeat(ramp()[:, :, None], 3, axis=2)
        pixels[:, :, 2] += 2
        hu, _ = read_raster(encode(Image.fromarray(pixels)))
        assert np.abs(hu - ramp()).max() <= 2


class TestDeclaredWindow:
    @pytest.mark.parametrize(("centre", "width"), [(40, 80), (40, 120), (35, 70), (600, 2800), (-20.5, 33)])
    def test_0_and_255_are_the_windows_ends(self, centre: float, width: float):
        hu, notes = read_raster(encode(Image.fromarray(np.array([[0, 255, 51]], np.uint8))), (centre, width))
        white = 80 if 30 < centre + width / 2 < 80 else centre + width / 2
        assert hu[0].tolist() == pytest.approx([centre - width / 2, white, centre - 0.3 * width], abs=1e-3)
        assert notes[0] == f"png-window {centre:g},{width:g} declared"

    def test_0_and_65535_are_the_windows_ends(self):
        hu, notes = read_raster(encode(Image.fromarray(np.array([[0, 65535, 13107]], np.uint16))), (40, 80))
        assert hu[0].tolist() == pytest.approx([0, 80, 16], abs=1e-3)
        assert notes == ("png-window 40,80 declared",)

    def test_it_comes_before_any_guess(self):
        hu, _ = read_raster(encode(Image.fromarray(head(skull=255, brain=110))), (40, 120))
        assert hu.max() == 100
        assert hu.min() == -20

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_black_is_air_where_the_window_starts_above_water(self, kind: str):
        hu, _ = read_raster(encode(Image.fromarray(export((40, 40), 32)), kind), (40, 40))
        assert np.all(hu[:3, :3] == 0)
        assert hu[32, 32] == pytest.approx(32, abs=10)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_white_is_bone_where_the_window_ends_below_it(self, kind: str):
        hu, _ = read_raster(encode(Image.fromarray(export((40, 40), 32)), kind), (40, 40))
        assert np.mean(hu == 80) == pytest.approx(0.14, abs=0.05)
        assert np.mean((hu >= 59) & (hu < 80)) < 0.02

    @pytest.mark.parametrize(("width", "coarse"), [(80, False), (400, False), (892, False), (893, True), (2800, True)])
    def test_a_window_too_wide_for_blood_is_out_of_distribution(self, width: int, coarse: bool):
        eight = encode(Image.fromarray(head(skull=255, brain=100)))
        sixteen = encode(Image.fromarray(head(skull=255, brain=100).astype(np.uint16) * 257))
        assert (OUT_OF_DISTRIBUTION in read_raster(eight, (40, width))[1]) is coarse
        assert OUT_OF_DISTRIBUTION not in read_raster(sixteen, (40, width))[1]

    @given(npst.arrays(np.uint8, shapes(12)), st.integers(-1000, 1000), st.integers(1, 4000))
    @settings(max_examples=50, deadline=None)
    def test_any_window(self, grey: NDArray[np.uint8], centre: int, width: int):
        hu, _ = read_raster(encode(Image.fromarray(grey)), (centre, width))
        expected = centre - width / 2 + grey.astype(float) * width / 255
        if centre - width / 2 > 0:
            expected[grey <= 5] = 0
        if 30 < centre + width / 2 < 80:
            expected[grey >= 245] = 80
        assert np.allclose(hu, expected, rtol=1e-5, atol=width * 1e-5 + 1e-3)


class TestGuess:
    @pytest.mark.parametrize("skull", [70, 76, 80, 90, 102, 115, 150, 255])
    def test_values_that_are_hu(self, skull: int):
        grey = head(skull=skull)
        assert guess_window(grey) is None
        hu, notes = read_raster(encode(Image.fromarray(grey)))
        assert np.array_equal(hu, grey)
        assert notes == ("grey taken as HU",)

    @pytest.mark.parametrize("brain", [28, 33])
    @pytest.mark.parametrize("window", EXPORT_WINDOWS, ids=str)
    def test_stretched_exports(self, window: tuple[int, int], brain: int):
        grey = export(window, brain)
        centre, width = guess_window(grey) or (0, 0)
        assert 1 / 2.3 < width / window[1] < 2.3
        hu, notes = read_raster(encode(Image.fromarray(grey)))
        assert notes[0] == f"stretched export: window {centre:g},{width:g} guessed"
        assert notes[1:] == ((OUT_OF_DISTRIBUTION,) if window[1] > 1000 else ())
        assert np.median(hu[24:40, 24:40]) == pytest.approx(30, abs=4)
        between = (grey > 0) & (grey < 255)
        assert np.allclose(hu[between], centre - width / 2 + grey[between] / 255 * width, atol=1e-3)
        assert np.all(hu[grey == 255] >= 70)

    @pytest.mark.parametrize("window", EXPORT_WINDOWS, ids=str)
    def test_stretched_exports_as_jpeg(self, window: tuple[int, int]):
        noise = np.random.default_rng(1).normal(0, 5 / window[1] * 255, (224, 224))
        grey = np.repeat(np.repeat(export(window, 32), 4, 0), 4, 1)[16:240, 16:240]
        noisy = np.where((grey > 0) & (grey < 255), np.clip(grey + noise, 0, 255), grey).astype(np.uint8)
        guess = guess_window(np.asarray(Image.open(io.BytesIO(encode(Image.fromarray(noisy), "JPEG", quality=60)))))
        assert guess is not None

    @pytest.mark.parametrize("window", EXPORT_WINDOWS, ids=str)
    def test_stretched_exports_of_16_bits(self, window: tuple[int, int]):
        grey = export(window, 32)
        hu, notes = read_raster(encode(Image.fromarray(grey.astype(np.uint16) * 257)))
        expected, as_expected = read_raster(encode(Image.fromarray(grey)))
        assert notes == as_expected[:1]
        assert np.allclose(hu, expected, atol=1e-3)

    def test_too_little_tissue_is_taken_for_a_brain_window(self):
        assert guess_window(head(skull=255, brain=100, size=40)) == (40, 80)

    def test_16_bits_that_are_hu_stay_so(self):
        measured = head(skull=255, brain=32).astype(np.int32) * np.where(head() == 70, 12, 1)
        measured[measured == 0] = -1000
        hu, notes = read_raster(encode(Image.fromarray((measured + 1024).astype(np.uint16))))
        assert measured.max() == 3060
        assert np.array_equal(hu, measured)
        assert notes == ("16-bit grey taken as HU + 1024",)

    @pytest.mark.parametrize("value", [0, 60, 255])
    def test_an_even_picture_is_not_stretched(self, value: int):
        assert guess_window(np.full((20, 20), value, np.uint8)) is None

    def test_a_few_bright_pixels_are_no_skull(self):
        grey = head(skull=70, brain=100)
        grey[0, :10] = 255
        assert guess_window(grey) is None


class TestDamage:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    @pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
    def test_a_truncated_file_is_an_error(self, kind: str, share: float):
        content = encode(Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64), np.uint8)), kind)
        with pytest.raises(ImageError, match="cannot be decoded"):
            read_raster(content[: int(share * len(content))])

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"], ids=ascii)
    def test_what_is_no_picture_is_an_error(self, content: bytes):
        with pytest.raises(ImageError):
            read_raster(content)

    def test_other_formats_are_not_opened(self):
        with pytest.raises(ImageError, match=r"cannot identify image file$"):  # and no address that differs each time
            read_raster(encode(Image.fromarray(ramp()), "TIFF"))

    @pytest.mark.parametrize(("width", "height"), [(9000, 9000), (60000, 60000), (2**31 - 1, 2**31 - 1)], ids=str)
    def test_a_huge_picture_is_an_error_before_anything_is_allocated(self, width: int, height: int):
        body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
        content = b"\x89PNG\r\n\x1a\n" + chunk + encode(Image.fromarray(ramp()))[33:]
        tracemalloc.start()
        try:
            with pytest.raises(ImageError):
                read_raster(content)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2**20

    @given(st.binary(max_size=200))
    @settings(max_examples=50, deadline=None)
    def test_noise_after_a_signature_never_raises_anything_else(self, noise: bytes):
        for signature in (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\xff\xd8\xff"):
            with pytest.raises((ImageError, NotForModelError)):
                read_raster(signature + noise)


def png_16_bit(pixels: np.ndarray[Any, Any]) -> bytes:
    """Encode uint16 pixels of shape (rows, columns, channels), 2 to 4 channels: Pillow writes none of these."""
    rows, columns, channels = pixels.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", columns, rows, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4], ids=["LA", "RGB", "RGBA"])
def test_16_bit_with_several_channels_keeps_all_bits(channels: int):
    stored = np.arange(1024 - 30, 1024 + 90).reshape(10, 12)
    pixels = np.repeat(stored[:, :, None], channels, axis=2)
    hu, notes = read_raster(png_16_bit(pixels))
    assert np.array_equal(hu, stored - 1024)
    assert notes == ("16-bit grey taken as HU + 1024",)


def test_16_bit_in_colour_is_skipped():
    pixels = np.zeros((10, 12, 3), np.uint16)
    pixels[:, :, 0] = 40_000
    with pytest.raises(NotForModelError, match="colour"):
        read_raster(png_16_bit(pixels))
