"""Picture kinds: what a file is by its first bytes, in words where it is no picture that can be read."""

from __future__ import annotations

import os
import struct
from pathlib import Path

HEIF = "HEIF"
"""What Pillow calls HEIC, once `pillow-heif` is there."""

WAY_OUT = "Please upload a PNG, JPEG, WebP, GIF or HEIC picture."
RESAVE = "Please open it in a picture viewer, save it as PNG or JPEG, and upload that."

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif", ".ppm", ".pgm", ".pbm"),
)
"""Endings that a file must not have without being a picture; one with another ending is told by its content."""

_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_STARTS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*"),
    *(b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n", b"P5 ", b"P6 "),
)
_RAW = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS")  # Fuji, Panasonic, Olympus
_PNG = _STARTS[0]


def is_picture_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a picture does that can be read here."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return False
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    return head.startswith(_STARTS) or heif_brand(head) or _brand(head) in (b"avif", b"avis")


def _brand(head: bytes) -> bytes:
    """The kind of an ISO media file: pictures of phones, films, Canon's raw files."""
    return head[8:12] if head[4:8] == b"ftyp" else b""


def heif_brand(head: bytes) -> bool:
    """Whether it is HEIC; AVIF, which may name itself the same, is told by what else it names."""
    if _brand(head) in (b"mif1", b"msf1"):
        length = struct.unpack(">I", head[:4])[0]
        return not {b"avif", b"avis"} & {head[i : i + 4] for i in range(16, min(length, len(head)), 4)}
    return _brand(head) in _HEIC_BRANDS


def without_text(content: bytes, head: bytes) -> bytes | None:
    """A PNG without its text chunks, where generators of pictures keep megabytes; None for what is no PNG."""
    if not head.startswith(_PNG):
        return None
    kept, at = [content[:8]], 8
    while at + 12 <= len(content):
        length = struct.unpack(">I", content[at : at + 4])[0]
        end = at + 12 + length
        if content[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def what_it_is_instead(head: bytes) -> str:
    """Words for a file that is no picture which can be read, by its first bytes."""
    brand = _brand(head)
    if heif_brand(head):
        return f"This HEIC picture is damaged or of a kind that cannot be read. {RESAVE}"
    if brand == b"crx " or head.startswith(_RAW):
        return f"This is a camera raw file, which a camera's own program turns into a picture. {RESAVE}"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return f"This is a JPEG XL picture, which cannot be read here. {RESAVE}"
    if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return f"This is a JPEG 2000 picture, which cannot be read here. {RESAVE}"
    if brand in (b"avif", b"avis"):
        return f"This AVIF picture is damaged or of a kind that cannot be read. {RESAVE}"
    if brand:
        return f"This is a video, not a picture. {WAY_OUT}"
    if head.startswith(_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return f"This picture is damaged or incomplete. {RESAVE}"
    if b"<svg" in head.lower():
        return f"This is an SVG drawing, which has no pixels. {RESAVE}"
    if head.startswith(b"%PDF"):
        return f"This is a PDF document, not a picture. {RESAVE}"
    if head.startswith(b"version https://git-lfs.github.com"):
        return (
            "This is a Git LFS pointer in the place of a picture. Run 'git lfs pull' where it lies to get the picture."
        )
    if _is_text(head):
        return f"This is a text file, not a picture, whatever its name says. {WAY_OUT}"
    return f"This file is not a picture, or is in a format that is not supported. {WAY_OUT}"


def _is_text(head: bytes) -> bool:
    try:
        # The cut at 1024 bytes may have split a character of up to four bytes.
        text = head.decode("utf-8") if len(head) < 1024 else head[:-4].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


def suffix_is_known(path: Path) -> bool:
    """Whether a file's ending is that of a picture."""
    return path.suffix.lower() in SUFFIXES
