"""The canvas that the example pictures are painted on: shapes, light and haze at four times the size.

Coordinates are 0 to 256; what is painted is reduced to 256x256 at the end and given a little grain, as a
camera would.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 256
SCALE = 4  # drawn at SIDE * SCALE, for smooth edges

Point = tuple[float, float]
Colour = tuple[int, int, int]


class Canvas:
    """A square picture in coordinates of 0 to 256, y downwards, that shapes are painted onto."""

    def __init__(self, seed: int) -> None:
        self.image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE))
        self.random = np.random.default_rng(seed)

    def paint(self, mask: Image.Image, top: Colour, bottom: Colour | None = None) -> None:
        """Fill a mask with a colour, or with a gradient from its top edge to its bottom edge."""
        box = mask.getbbox()
        if box is None:
            return
        fill = _gradient(box[2] - box[0], box[3] - box[1], top, bottom or top)
        self.image.paste(fill, box[:2], mask.crop(box))

    def rows(self, top: float, bottom: float, above: Colour, below: Colour) -> None:
        """A band across the whole picture, from one colour to another."""
        self.polygon([(0, top), (SIDE, top), (SIDE, bottom), (0, bottom)], above, below)

    def polygon(self, points: Sequence[Point], top: Colour, bottom: Colour | None = None) -> None:
        """A shape with straight edges."""
        self.paint(_mask(lambda draw: draw.polygon(_scaled(points), 255)), top, bottom)

    def curve(self, points: Sequence[Point], top: Colour, bottom: Colour | None = None) -> None:
        """A closed shape whose edge runs smoothly through the points."""
        self.polygon(_smooth(points), top, bottom)

    def ellipse(self, x: float, y: float, rx: float, ry: float, top: Colour, bottom: Colour | None = None) -> None:
        """An ellipse about (x, y) with radii rx and ry."""
        box = _scaled([(x - rx, y - ry), (x + rx, y + ry)])
        self.paint(_mask(lambda draw: draw.ellipse(box, 255)), top, bottom)

    def box(
        self,
        corners: tuple[float, float, float, float],
        top: Colour,
        bottom: Colour | None = None,
        radius: float = 2,
    ) -> None:
        """A rectangle (left, top, right, bottom) with rounded corners."""
        left, upper, right, lower = corners
        box = _scaled([(left, upper), (right, lower)])
        self.paint(_mask(lambda draw: draw.rounded_rectangle(box, radius * SCALE, 255)), top, bottom)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line with round joints."""
        scaled, thick = _scaled(points), round(width * SCALE)
        self.paint(_mask(lambda draw: draw.line(scaled, 255, thick, joint="curve")), colour)

    def haze(self, x: float, y: float, rx: float, ry: float, colour: Colour, alpha: float) -> None:
        """A soft ellipse laid over the picture: a shadow where dark, a glow or a cloud if light."""
        box = _scaled([(x - rx, y - ry), (x + rx, y + ry)])
        mask = _mask(lambda draw: draw.ellipse(box, round(255 * alpha)))
        self.paint(mask.filter(ImageFilter.GaussianBlur(min(rx, ry) * SCALE / 2)), colour)

    def cloud(self, x: float, y: float, size: float) -> None:
        """A cloud of soft puffs, grey below."""
        for _ in range(14):
            dx, dy = self.random.normal(0, size), self.random.normal(0, size / 5)
            self.haze(x + dx, y + dy + size / 6, size / 1.6, size / 3, (196, 206, 220), 0.3)
            self.haze(x + dx, y + dy, size / 1.8, size / 3.2, (255, 255, 255), 0.55)

    def mottle(self, top: float, bottom: float, strength: float, stretch: float = 1) -> None:
        """Uneven light between two heights: grass, gravel, asphalt or, stretched, water."""
        height = round((bottom - top) * SCALE)
        width = SIDE * SCALE
        total = np.zeros((height, width), np.float32)
        for grain in (3, 8, 24):
            shape = (max(1, round(height / grain)), max(1, round(width / grain / stretch)))
            noise = Image.fromarray(self.random.normal(0, 1, shape).astype(np.float32))
            total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
        place = (0, round(top * SCALE))
        part = np.asarray(self.image.crop((0, place[1], width, place[1] + height)), np.float32)
        lit = np.clip(part + strength * total[..., None], 0, 255).astype(np.uint8)
        self.image.paste(Image.fromarray(lit), place)

    def blur(self, radius: float) -> None:
        """Put what is drawn so far out of focus."""
        self.image = self.image.filter(ImageFilter.GaussianBlur(radius * SCALE))

    def finished(self) -> Image.Image:
        """The picture at its final size, with a camera's grain."""
        small = self.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        grain = self.random.normal(0, 3, (SIDE, SIDE, 1)) + self.random.normal(0, 1, (SIDE, SIDE, 3))
        return Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8))


def _mask(draw: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    mask = Image.new("L", (SIDE * SCALE, SIDE * SCALE))
    draw(ImageDraw.Draw(mask))
    return mask


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def _gradient(width: int, height: int, top: Colour, bottom: Colour) -> Image.Image:
    share = np.linspace(0, 1, height)[:, None, None]
    column = np.array(top) * (1 - share) + np.array(bottom) * share  # (height, 1, 3)
    return Image.fromarray(np.broadcast_to(column, (height, width, 3)).round().astype(np.uint8))


def _smooth(points: Sequence[Point], steps: int = 12) -> list[Point]:
    """A closed Catmull-Rom curve through the points."""
    p = np.array(points, float)
    a, b, c, d = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    curve = []
    for t in np.linspace(0, 1, steps, endpoint=False):
        curve.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                   + (3 * b - a - 3 * c + d) * t**3)
        )  # fmt: skip
    return [(x, y) for x, y in np.stack(curve, 1).reshape(-1, 2)]


def ellipse_points(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points of an ellipse's arc; angles in degrees, 0 to the right, clockwise."""
    angles = np.radians(np.linspace(start, end, 40))
    return [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles]
