"""Uploads: each bad or awkward file, made here, either read as it should look or refused."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cce.config import ConfigError
from cce.data import pictures
from cce.data.pictures import PictureError, read_picture, to_model_input, to_picture, to_png

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def photograph(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth colours, different in every corner: red grows to the right, green downwards."""
    red = np.linspace(0, 255, width).astype(np.uint8)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height).astype(np.uint8)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=-1))


def encoded(image: Image.Image, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, **options)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size: header and an empty picture, a few bytes long."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + crc

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
        + chunk(b"IDAT", zlib.compress(b"\x00"))
        + chunk(b"IEND", b"")
    )


# Refused, each in its own words

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40)
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'

REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("a.png", lambda: b"", "This file is empty"),
    "truncated PNG": (
        "a.png",
        lambda: encoded(Image.effect_noise((64, 64), 50), format="PNG")[:2000],
        "damaged or incomplete.*save it as PNG or JPEG",
    ),
    "truncated JPEG": (
        "a.jpg",
        lambda: encoded(photograph(400, 400), format="JPEG")[:3000],
        "damaged or incomplete",
    ),
    "signature alone": ("a.png", lambda: b"\x89PNG\r\n\x1a\n", "Please"),
    "1x1": ("a.png", lambda: encoded(photograph(1, 1), format="PNG"), "1x1 pixels.*at least 8x8"),
    "a line": ("a.png", lambda: encoded(photograph(300, 3), format="PNG"), "300x3 pixels"),
    "12000x12000 PNG": (
        "a.png",
        lambda: png_header(12000, 12000),
        "12000x12000 pixels.*too large.*40 million.*2000 pixels across",
    ),
    "decompression bomb": ("a.png", lambda: png_header(60000, 60000), "too large"),
    "large progressive JPEG": (
        "a.jpg",
        lambda: encoded(Image.new("L", (7000, 7000)), format="JPEG", progressive=True),
        "7000x7000 pixels.*too large",
    ),
    "text named png": ("a.png", lambda: b"hello\n" * 400, "text file, not a picture"),
    "text in another script": ("a.png", lambda: "żółw ".encode() * 400, "text file"),
    "HEIC": ("a.heic", lambda: HEIC, "HEIC picture is damaged.*save it as PNG or JPEG"),
    "SVG": ("a.svg", lambda: SVG, "SVG drawing.*no pixels"),
    "PDF": ("a.png", lambda: b"%PDF-1.7\n\xff\xfe", "PDF document"),
    "video": ("a.mp4", lambda: b"\x00\x00\x00\x18ftypisom" + bytes(40), "a video"),
    "random bytes": ("a.jpg", lambda: bytes(range(128, 256)) * 4, "not a picture, or is in a format"),
    "32-bit TIFF": (
        "a.tif",
        lambda: encoded(Image.new("F", (32, 32)), format="TIFF"),
        "32-bit numbers",
    ),
}


@pytest.mark.parametrize(("name", "content", "words"), REFUSED.values(), ids=REFUSED)
def test_unusable_upload_is_refused_in_plain_words(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(PictureError, match=words) as from_path:
        read_picture(path)
    with pytest.raises(PictureError) as from_bytes:
        read_picture(path.read_bytes())
    assert str(from_path.value) == str(from_bytes.value)
    assert "Please" in str(from_path.value), "every refusal says what to do"


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(PictureError, match="gone.png cannot be read"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(PictureError, match="cannot be read"):
        read_picture(str(tmp_path))


# Read, as they are meant to look


def read(path: Path, image: Image.Image, **options) -> Image.Image:
    image.save(path, **options)
    return read_picture(path)


def differs(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference, in 0..255."""
    assert one.size == other.size and one.mode == other.mode == "RGB"
    return float(np.abs(np.asarray(one, int) - np.asarray(other, int)).mean())


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_formats_are_read_exactly(tmp_path, suffix):
    assert differs(read(tmp_path / f"a.{suffix}", photograph()), photograph()) == 0


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_are_read_closely(tmp_path, suffix):
    assert differs(read(tmp_path / f"a.{suffix}", photograph(), quality=95), photograph()) < 3


def test_content_decides_not_the_name(tmp_path):
    assert differs(read(tmp_path / "a.jpg", photograph(), format="PNG"), photograph()) == 0


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp"):
        got = read(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
        assert got.getpixel((10, 10)) == (255, 0, 0)


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    got = read(tmp_path / "a.jpg", photograph().convert("CMYK"), quality=95)
    assert differs(got, photograph()) < 4


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        got = read(tmp_path / name, Image.fromarray(values))
        assert np.array_equal(np.asarray(got)[..., 0], np.arange(256).reshape(16, 16))


def test_transparency_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 10, 20))
    clear.putpixel((15, 5), (0, 0, 0, 51))  # one fifth black on white: 204
    got = read(tmp_path / "rgba.png", clear)
    assert got.getpixel((15, 15)) == (255, 255, 255) and got.getpixel((5, 5)) == (200, 0, 0)
    assert got.getpixel((15, 5)) == (204, 204, 204)
    grey = read(tmp_path / "la.png", clear.convert("LA"))
    assert grey.getpixel((15, 15)) == (255, 255, 255)


def test_palette_with_transparency_is_laid_on_white(tmp_path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(0, (10, 0, 20, 20))
    for name in ("a.png", "a.gif"):
        got = read(tmp_path / name, image, transparency=0)
        assert got.getpixel((15, 10)) == (255, 255, 255) and got.getpixel((5, 10)) == (0, 0, 255)


def test_exif_rotation_is_applied(tmp_path):
    sideways = photograph().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    got = read(tmp_path / "a.jpg", sideways, exif=exif, quality=95)
    assert got.size == (48, 32) and differs(got, photograph()) < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_does_not_cost_the_picture(tmp_path):
    got = read(tmp_path / "a.jpg", photograph(), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", quality=95)
    assert differs(got, photograph()) < 3


def test_12000x12000_jpeg_is_decoded_small_in_bounded_memory(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("L", (12000, 12000), 77).save(path)
    got = read_picture(path)
    assert got.size == (3000, 3000) and abs(got.getpixel((1500, 1500))[0] - 77) <= 1
    assert got.size[0] * got.size[1] <= pictures.MAX_PIXELS, "the size bounds the memory"


# To the model and back


def test_a_picture_of_the_models_size_is_taken_exactly():
    image = photograph(32, 32)
    pixels, crop = to_model_input(image, 3, 32, 32)
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 32, 32)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    assert torch.equal(pixels, expected) and differs(crop, image) == 0


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 16, 16)])
def test_every_pixel_survives_download_and_upload(tmp_path, shape):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, shape, generator=generator).float() / 255
    path = tmp_path / "adversarial.png"
    path.write_bytes(to_png(pixels))
    again, _ = to_model_input(read_picture(path), *shape)
    assert torch.equal(again, pixels)


def test_all_256_levels_survive():
    pixels = (torch.arange(256).float() / 255).view(1, 16, 16)
    assert torch.equal(to_model_input(read_picture(to_png(pixels)), 1, 16, 16)[0], pixels)


def test_a_large_picture_is_cropped_about_its_centre_and_lies_on_the_grid():
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    pixels, crop = to_model_input(image, 3, 32, 32)
    assert pixels.shape == (3, 32, 32) and crop.size == (100, 100)
    assert torch.equal(pixels[2], torch.ones(32, 32)) and pixels[0].max() == 0
    busy, _ = to_model_input(photograph(640, 480), 3, 32, 32)
    assert torch.equal((busy * 255).round() / 255, busy) and busy.min() >= 0 and busy.max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_the_crop_can_be_moved_along_the_longer_side(turned):
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    image.paste("lime", (200, 0, 300, 100))
    image = image.transpose(Image.Transpose.ROTATE_270) if turned else image  # its left end is up
    for place, colour in ((0.0, (255, 0, 0)), (0.5, (0, 0, 255)), (1.0, (0, 255, 0))):
        pixels, crop = to_model_input(image, 3, 32, 32, place)
        assert crop.size == (100, 100) and crop.getextrema() == tuple((c, c) for c in colour)
        assert pixels.mean((1, 2)).mul(255).round().int().tolist() == list(colour)
    square = photograph(64, 64)
    assert torch.equal(to_model_input(square, 3, 32, 32, 0.0)[0], to_model_input(square, 3, 32, 32, 1.0)[0])


@pytest.mark.parametrize("place", [-0.1, 1.5, float("nan")])
def test_a_place_outside_the_picture_is_refused(place):
    with pytest.raises(ConfigError, match="place of the crop is .*from 0"):
        to_model_input(photograph(), 3, 32, 32, place)


def test_shrinking_averages_instead_of_picking():
    board = np.indices((256, 256)).sum(0) % 2 * 255
    pixels, _ = to_model_input(Image.fromarray(board.astype(np.uint8)), 1, 32, 32)
    assert pixels.shape == (1, 32, 32) and (pixels - 0.5).abs().max() < 0.05


def test_the_shown_crop_is_small_enough_to_send_and_the_picture_is_left_alone():
    image = photograph(3000, 2000)
    _, crop = to_model_input(image, 3, 32, 32)
    assert crop.size == (512, 512) and image.size == (3000, 2000)


def test_to_picture_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match=r"shape \(4, 8, 8\)"):
        to_picture(torch.zeros(4, 8, 8))
    with pytest.raises(ValueError, match="run from 0.0 to 2.0"):
        to_picture(torch.tensor([[[0.0, 2.0]]]))
    with pytest.raises(ValueError, match="nan"):
        to_picture(torch.full((1, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="channels is 4"):
        to_model_input(photograph(), 4, 32, 32)
