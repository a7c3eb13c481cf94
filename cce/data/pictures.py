"""Pictures service: uploaded files to what a model takes, and model pixels to PNG files.

Whatever is uploaded either becomes a plain RGB picture or is refused with a ``PictureError``
whose message can be shown as it is: what is wrong, and what to do.
"""

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from cce.config import check
from cce.data.picture_kinds import HEIF, RESAVE, WAY_OUT, heif_brand, what_it_is_instead, without_text

MIN_SIDE = 8
"""Fewest pixels along a side. Models take 16 to 32 of them: from fewer than 8, most of what the
model would see is made up by enlarging, and its answer would say nothing about the picture."""

MAX_PIXELS = 40_000_000
"""Most pixels that are decoded: 160 MB as Pillow stores RGB."""

MAX_JPEG_PIXELS = 170_000_000
"""Most pixels of a JPEG, which can be decoded directly at 1/4 or 1/8 of its sides."""

_REDUCED_PIXELS = 10_000_000  # what a JPEG above MAX_PIXELS is decoded to, at most

MIDDLE = 0.5
"""Where a picture is cropped unless another place is asked for."""

SHOWN_SIDE = 512
"""Longest side in pixels of the crop that is shown to the user."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")

# Pillow's warning above 89 million pixels goes to the log, where nobody asked for it: the limits
# here are lower, or mean a smaller decoding. Its error at twice that stays.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(ValueError):
    """An upload that cannot be used; the message is written for the person who uploaded it."""


def read_picture(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Read an uploaded picture, whatever its format, as it is meant to look.

    Turned upright by its EXIF orientation; colours brought from the picture's own profile to sRGB; transparency laid on
    white; 16-bit grey scaled to 8; the first frame of an animation. The format is told by the content, not
    by the file's name.
    Decodes no more than ``MAX_PIXELS``: a larger baseline JPEG is decoded at a fraction of its
    size, anything else is refused from its header alone.

    Args:
        source: path of the file, or its content.

    Returns:
        The picture, mode RGB, both sides at least ``MIN_SIDE``.

    Raises:
        PictureError: not a picture, damaged, too small, too large, or in a form that has no
            agreed look; the message names the problem and the way out.
    """
    head = _head(source)
    if not head:
        raise PictureError(f"This file is empty. {WAY_OUT}")
    try:
        with _open(source, head) as picture:
            _check_size(picture)
            _load_upright(picture)
            return _to_rgb(picture)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(what_it_is_instead(head)) from error
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large("This picture")) from error
    except Exception as error:  # a decoder fed a damaged file raises nearly anything
        raise PictureError(f"This picture is damaged or incomplete. {RESAVE}") from error


def to_model_input(
    image: Image.Image, channels: int, height: int, width: int, place: float = MIDDLE
) -> tuple[Tensor, Image.Image]:
    """Crop a picture and resize it to a model's input.

    A picture that already has the model's size is taken as it is, bit for bit, so that an
    adversarial PNG that was downloaded gives the same pixels when it is uploaded again.

    Args:
        image: an RGB picture, as ``read_picture`` gives.
        channels: 3, or 1 for grey (ITU-R 601 weights, which leave grey pixels unchanged).
        height: of the model's input, in pixels.
        width: of the model's input, in pixels.
        place: where along its longer side the picture is cropped: 0 is its left or upper end, 1 the other one.

    Returns:
        The input, ``(C, H, W)`` float32 in [0, 1] with every pixel a multiple of 1/255; and the
        crop to show, RGB, at most ``SHOWN_SIDE`` pixels on its longer side.

    Raises:
        ValueError: channels is neither 1 nor 3.
        ConfigError: a place outside [0, 1].
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; a picture gives 1 (grey) or 3 (RGB)")
    crop = _rgb(image).crop(_box(image.size, width / height, place))
    small = crop
    if crop.size != (width, height):
        # Pillow's filters widen when they shrink, which is the antialiasing.
        small = crop.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.array(small.convert("L") if channels == 1 else small)
    pixels = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    crop.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32).div_(255), crop


def to_picture(pixels: Tensor) -> Image.Image:
    """A model's pixels as a picture.

    Args:
        pixels: ``(C, H, W)`` in [0, 1], C 1 or 3, on any device. Each is rounded to the nearest
            multiple of 1/255; pixels on that grid, as ``to_model_input`` gives, are kept exactly.

    Returns:
        The picture at the model's resolution, mode L for one channel, else RGB.

    Raises:
        ValueError: another shape, or pixels outside [0, 1].
    """
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(f"pixels have shape {tuple(pixels.shape)}; one picture is (1, H, W) or (3, H, W)")
    pixels = pixels.detach().to("cpu", torch.float32)
    low, high = pixels.min().item(), pixels.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN is refused too
        raise ValueError(f"pixels run from {low} to {high}; they have to lie in [0, 1]")
    array = pixels.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def to_png(pixels: Tensor) -> bytes:
    """A model's pixels as the content of a PNG file, without loss; see ``to_picture``."""
    content = io.BytesIO()
    to_picture(pixels).save(content, format="PNG")
    return content.getvalue()


# Reading


def _open(source: str | os.PathLike[str] | bytes, head: bytes) -> Image.Image:
    """The picture's header; a PNG again without its texts where these are longer than Pillow's limit."""
    if heif_brand(head):
        _learn_heif()
        return Image.open(_stream(source), formats=(HEIF,))
    try:
        return Image.open(_stream(source), formats=_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise
    except Exception:
        shorter = without_text(source if isinstance(source, bytes) else Path(source).read_bytes(), head)
        if shorter is None:
            raise
        return Image.open(io.BytesIO(shorter), formats=_FORMATS)


def _learn_heif() -> None:
    """Let Pillow open HEIC, what an iPhone saves.

    Raises:
        PictureError: the package that reads it is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            f"This is a HEIC picture, and the package pillow-heif, which reads it, is not installed here. {RESAVE}"
        ) from None
    pillow_heif.register_heif_opener()


def _stream(source: str | os.PathLike[str] | bytes) -> io.BytesIO | Path:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source)


def _head(source: str | os.PathLike[str] | bytes) -> bytes:
    """The first bytes of the upload, by which a file that is no picture is told."""
    if isinstance(source, bytes):
        return source[:1024]
    try:
        with open(source, "rb") as file:
            return file.read(1024)
    except OSError as error:
        name = Path(source).name
        raise PictureError(f"The file {name} cannot be read ({error.strerror}). Please upload it again.") from error


def _check_size(picture: Image.Image) -> None:
    """Refuse by the header what is too small or too large; have a large JPEG decoded smaller."""
    width, height = picture.size
    if min(width, height) < MIN_SIDE:
        raise PictureError(
            f"This picture is {width}x{height} pixels, too small to show anything. Please upload "
            f"one of at least {MIN_SIDE}x{MIN_SIDE}."
        )
    count = width * height
    if count <= MAX_PIXELS:
        return
    # A progressive JPEG holds all its coefficients in memory whatever size it is decoded at.
    shrinks = picture.format in ("JPEG", "MPO") and "progressive" not in picture.info
    if not shrinks or count > MAX_JPEG_PIXELS:
        raise PictureError(_too_large(f"This picture is {width}x{height} pixels, which"))
    scale = next(s for s in (4, 8) if count / s**2 <= _REDUCED_PIXELS)
    picture.draft(None, (width // scale, height // scale))


def _too_large(what: str) -> str:
    return (
        f"{what} is too large: at most {MAX_PIXELS // 10**6} million pixels, or "
        f"{MAX_JPEG_PIXELS // 10**6} million as a plain JPEG. Please make it smaller, for instance "
        "2000 pixels across, and upload it again."
    )


def _load_upright(picture: Image.Image) -> None:
    """Decode the first frame and turn it, in place, as its EXIF orientation says."""
    picture.load()
    with contextlib.suppress(Exception):  # unreadable EXIF: the picture itself is still good
        ImageOps.exif_transpose(picture, in_place=True)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to sRGB: its own profile applied, 16-bit grey scaled, transparency laid on white."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray(_grey8(picture)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise PictureError(
            "This picture stores 32-bit numbers with no agreed black and white, so there is no one "
            f"way to show it. {RESAVE}"
        )
    profile = picture.info.get("icc_profile")
    if picture.has_transparency_data:
        picture = _to_srgb(picture.convert("RGBA"), profile)
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return _rgb(_to_srgb(picture, profile))


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture with the colours that its profile means; as it is where the profile cannot be used."""
    if not profile:
        return picture
    if picture.mode not in ("RGB", "RGBA", "L", "CMYK", "LAB"):
        picture = picture.convert("RGB")
    target = "RGBA" if picture.mode == "RGBA" else "RGB"
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        made = ImageCms.profileToProfile(picture, given, srgb, renderingIntent=intent, outputMode=target)
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of another kind of colours than the picture
        return picture
    return made or picture


def _grey8(picture: Image.Image) -> np.ndarray:
    """16-bit grey as 8 bits: black is 0, and white the most that the file's samples can be."""
    grey, tags = np.asarray(picture).astype(np.float32), _tiff_tags(picture)
    white = 65535.0
    if tags:
        bits = _first(tags.get(258), 16)  # BitsPerSample
        white = 2.0 ** min(bits, 16) - 1
        told = _first(tags.get(281), 0)  # MaxSampleValue
        if told > 255 and grey.max() <= told < white:
            white = float(told)
        elif bits == 16 and 255 < grey.max() <= 4095:  # a camera's 12 bits, written into 16
            white = 4095.0
        if _first(tags.get(262), 1) == 0:  # PhotometricInterpretation: WhiteIsZero
            grey = white - grey
    return (grey.clip(0, white) * (255 / white)).round().astype(np.uint8)


def _tiff_tags(picture: Image.Image) -> Any:
    return getattr(picture, "tag_v2", None) if picture.format == "TIFF" else None


def _first(value: Any, usual: int) -> int:
    """A tag's number, or the first of several."""
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return value if isinstance(value, int) else usual


def _rgb(picture: Image.Image) -> Image.Image:
    """The picture as RGB; itself where it is RGB already, as a copy may cost 160 MB."""
    return picture if picture.mode == "RGB" else picture.convert("RGB")


# Cropping


def movable(size: tuple[int, int], aspect: float) -> str | None:
    """Along which side of a picture a crop can be moved by a hundredth or more: `width`, `height`, or None.

    Args:
        size: the picture's width and height in pixels.
        aspect: width / height of the crop.

    >>> movable((640, 480), 1.0), movable((480, 640), 1.0), movable((480, 480), 1.0)
    ('width', 'height', None)
    """
    left, top, _, _ = _box(size, aspect, 1.0)
    return "width" if 100 * left >= size[0] else "height" if 100 * top >= size[1] else None


def _box(size: tuple[int, int], aspect: float, place: float) -> tuple[int, int, int, int]:
    """The largest box of the given width / height at a place in [0, 1]: left, top, right, bottom."""
    check(0 <= place <= 1, f"the place of the crop is {place:g}; it is from 0 (left or top) to 1 (right or bottom)")
    width, height = size
    box_width = min(width, round(height * aspect))
    box_height = min(height, round(width / aspect))
    left, top = int((width - box_width) * place), int((height - box_height) * place)
    return left, top, left + box_width, top + box_height
