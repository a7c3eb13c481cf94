"""Photos as people have them: of phones, cameras, scanners and programs; all are made here."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from cce.data.picture_kinds import is_picture_file
from cce.data.pictures import PictureError, read_picture

ORANGE = (200, 60, 30)


def saved(picture, form, **more):
    content = io.BytesIO()
    picture.save(content, form, **more)
    return content.getvalue()


def near(picture, colour, by=2):
    return np.abs(np.asarray(picture).astype(int) - np.array(colour)).max() <= by


def swapped_profile():
    """sRGB with red and green exchanged: ignoring it is plain to see."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    b = bytearray(srgb.tobytes())
    at = {bytes(b[o : o + 4]): o for o in range(132, 132 + 12 * struct.unpack(">I", b[128:132])[0], 12)}
    r, g = at[b"rXYZ"], at[b"gXYZ"]
    b[r + 4 : r + 12], b[g + 4 : g + 12] = b[g + 4 : g + 12], b[r + 4 : r + 12]
    return bytes(b)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_profile_is_brought_to_srgb(mode):
    stored = Image.new("RGB", (16, 16), (ORANGE[1], ORANGE[0], ORANGE[2]))
    stored = stored.quantize(4) if mode == "P" else stored.convert(mode)
    shown = read_picture(saved(stored, "PNG", icc_profile=swapped_profile()))
    assert near(shown, ORANGE)


def test_a_damaged_profile_leaves_the_picture_as_it_is():
    assert near(read_picture(saved(Image.new("RGB", (16, 16), ORANGE), "PNG", icc_profile=b"no profile")), ORANGE, 0)


def test_a_profile_for_other_colours_than_the_pictures_is_passed_over():
    grey = Image.new("L", (16, 16), 77)
    assert near(read_picture(saved(grey, "PNG", icc_profile=swapped_profile())), (77, 77, 77), 0)


def test_heic_is_read_and_told_by_its_content(tmp_path):
    import pillow_heif

    content = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), ORANGE)).save(content, quality=100)
    assert near(read_picture(content.getvalue()), ORANGE, 3)
    (tmp_path / "photo").write_bytes(content.getvalue())
    assert is_picture_file(tmp_path / "photo")


def test_a_png_with_megabytes_of_compressed_text_opens():
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "a" * 2_000_000, zip=True)
    assert near(read_picture(saved(Image.new("RGB", (64, 64), ORANGE), "PNG", pnginfo=text)), ORANGE, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypcrx " + bytes(64), "a camera raw file"),
        (b"FUJIFILMCCD-RAW " + bytes(64), "a camera raw file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "This picture is damaged or incomplete"),
        (b"\xff\x0a" + bytes(64), "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "a JPEG XL picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", "Git LFS pointer.*git lfs pull"),
    ],
)
def test_what_cannot_be_read_is_named(content, words):
    with pytest.raises(PictureError, match=words):
        read_picture(content)


def ramp(top):
    return np.linspace(0, top, 100).reshape(10, 10).astype(np.uint16)


def test_16_bit_white_is_zero_is_no_negative():
    shown = np.asarray(read_picture(saved(Image.fromarray(ramp(65535)), "TIFF", tiffinfo={262: 0})))
    assert shown[0, 0, 0] == 255 and shown[-1, -1, 0] == 0


def test_12_bits_in_16_are_as_bright_as_they_are_meant():
    shown = np.asarray(read_picture(saved(Image.fromarray(ramp(4095)), "TIFF")))
    assert shown[0, 0, 0] == 0 and shown[-1, -1, 0] == 255
    whole = np.asarray(read_picture(saved(Image.fromarray(ramp(65535)), "TIFF")))
    assert near(whole, shown, 1)


def test_a_dark_16_bit_png_stays_dark():
    assert np.asarray(read_picture(saved(Image.fromarray(ramp(4095)), "PNG"))).max() == 16
