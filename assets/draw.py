"""Draw the example pictures that are not photographs, always the same: ``python assets/draw.py``.

Every picture is drawn at four times its size in coordinates of 0 to 256, reduced to 256x256, and
given a little grain, as a camera would. ``horse.jpg`` stands a CC0 silhouette, read from
``horse_silhouette.png`` beside this file, in a drawn meadow. See SOURCES.md.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

HERE = Path(__file__).resolve().parent
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


def _ellipse_points(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points of an ellipse's arc; angles in degrees, 0 to the right, clockwise."""
    angles = np.radians(np.linspace(start, end, 40))
    return [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles]


# The pictures


def airplane() -> Canvas:
    """An airliner from the side, above clouds."""
    c = Canvas(1)
    c.rows(0, 256, (46, 106, 182), (182, 214, 240))
    for x, y, size in ((40, 222, 34), (120, 236, 40), (215, 226, 36), (205, 48, 15), (48, 64, 12)):
        c.cloud(x, y, size)
    grey, dark = (214, 219, 226), (120, 128, 140)
    c.polygon([(112, 122), (138, 122), (100, 84), (88, 86)], dark, (150, 158, 170))  # far wing
    c.polygon([(28, 130), (52, 126), (34, 116), (22, 118)], dark)  # far tailplane
    c.polygon([(26, 124), (60, 117), (34, 74), (17, 76)], (32, 74, 150), (24, 56, 120))  # fin
    c.curve(
        [(14, 124), (40, 115), (90, 109), (160, 105), (208, 107), (230, 115), (238, 123),
         (228, 131), (200, 137), (150, 142), (90, 142), (46, 136)],
        (252, 253, 255), (158, 168, 182),
    )  # fmt: skip
    c.polygon([(24, 128), (226, 122), (232, 126), (60, 135)], (34, 78, 156), (28, 62, 130))  # stripe
    for i in range(20):
        c.box((62 + i * 7.2, 116.5 - i * 0.12, 65.4 + i * 7.2, 121 - i * 0.12), (52, 62, 80), radius=1)
    c.polygon([(213, 112), (222, 113.5), (228, 118), (214, 117)], (40, 50, 66))  # cockpit
    c.polygon([(106, 136), (146, 134), (96, 190), (80, 192)], grey, (168, 176, 188))  # near wing
    c.polygon([(106, 136), (112, 136), (84, 191), (80, 192)], dark)
    c.box((112, 148, 144, 163), (240, 243, 247), (128, 136, 150), radius=7)  # engine
    c.ellipse(142, 155.5, 3.4, 7, (60, 66, 78))
    c.polygon([(26, 130), (54, 128), (26, 148), (14, 149)], grey, (160, 168, 180))  # tailplane
    return c


def automobile() -> Canvas:
    """A red saloon on a road, from the side."""
    c = Canvas(2)
    c.rows(0, 130, (120, 170, 222), (214, 230, 240))
    c.cloud(70, 42, 18)
    c.cloud(200, 30, 14)
    for x in range(-10, 270, 16):
        c.haze(x, 128 + c.random.normal(0, 5), 18, 22, (58, 96, 52), 0.9)
    c.rows(138, 160, (112, 142, 74), (92, 122, 60))
    c.mottle(110, 160, 6)
    c.blur(1)
    c.rows(158, 256, (124, 124, 126), (84, 84, 88))
    c.mottle(158, 256, 5, 2)
    for x in (-20, 70, 160, 250):
        c.polygon([(x, 228), (x + 46, 228), (x + 42, 234), (x - 6, 234)], (226, 224, 214))
    c.haze(128, 194, 112, 9, (20, 20, 24), 0.95)
    red, deep = (222, 38, 34), (140, 14, 18)
    c.curve(
        [(22, 176), (22, 156), (34, 147), (66, 142), (92, 118), (112, 112), (150, 112), (170, 119),
         (190, 140), (222, 148), (236, 158), (237, 178), (226, 187), (128, 189), (34, 187)],
        red, deep,
    )  # fmt: skip
    glass, light = (42, 58, 76), (140, 168, 190)
    c.polygon([(76, 143), (97, 122), (113, 118), (123, 118), (123, 143)], light, glass)
    c.polygon([(129, 118), (150, 118), (164, 124), (179, 143), (129, 143)], light, glass)
    c.polygon([(97, 122), (103, 120), (86, 143), (80, 143)], (196, 214, 228), (110, 132, 150))
    c.polygon([(30, 152), (234, 157), (234, 160), (30, 155)], (246, 110, 100))  # light on the side
    for x in (72, 126, 183):
        c.line([(x, 144), (x + (2 if x < 180 else -3), 182)], 0.9, (104, 8, 12))
    c.box((108, 151, 118, 154), (90, 8, 10), radius=1.2)
    c.box((164, 152, 174, 155), (90, 8, 10), radius=1.2)
    c.curve([(224, 153), (233, 156), (235, 163), (226, 162)], (255, 250, 220), (240, 220, 150))
    c.curve([(23, 154), (31, 152), (31, 162), (23, 163)], (255, 120, 90), (150, 10, 10))
    c.box((22, 176, 238, 185), (70, 72, 78), (40, 40, 46), radius=4)
    for x in (66, 196):
        _wheel(c, x, 183, 20)
    return c


def _wheel(c: Canvas, x: float, y: float, radius: float) -> None:
    """A tyre with a spoked rim."""
    c.ellipse(x, y - 1.5, radius * 1.15, radius * 1.15, (26, 24, 26))
    c.ellipse(x, y, radius, radius, (44, 44, 48), (18, 18, 20))
    c.ellipse(x, y, radius * 0.62, radius * 0.62, (226, 230, 234), (140, 146, 154))
    for angle in np.radians(np.arange(5) * 72 + 18):
        inner, outer = radius * 0.22, radius * 0.54
        c.line(
            [(x + inner * np.cos(angle), y + inner * np.sin(angle)),
             (x + outer * np.cos(angle), y + outer * np.sin(angle))],
            radius * 0.16, (70, 74, 80),
        )  # fmt: skip
    c.ellipse(x, y, radius * 0.15, radius * 0.15, (90, 94, 100))


def bird() -> Canvas:
    """A robin on a branch before a blurred garden."""
    c = Canvas(3)
    c.rows(0, 256, (164, 190, 120), (78, 112, 60))
    for _ in range(40):
        x, y = c.random.uniform(0, 256, 2)
        tone = c.random.uniform(-30, 40)
        c.haze(x, y, 30, 30, (int(140 + tone), int(172 + tone), int(96 + tone * 0.6)), 0.5)
    c.blur(4)
    c.curve([(-10, 214), (60, 205), (140, 208), (270, 190), (270, 203), (140, 222), (60, 219), (-10, 230)],
            (126, 96, 66), (70, 48, 32))  # fmt: skip
    c.line([(190, 200), (222, 176), (240, 150)], 4, (96, 70, 48))
    c.curve([(240, 150), (252, 138), (250, 124), (238, 134)], (122, 168, 60), (84, 128, 40))
    c.curve([(222, 176), (206, 168), (200, 152), (214, 160)], (132, 176, 70), (90, 132, 46))
    c.polygon([(70, 168), (92, 178), (40, 232), (26, 228)], (96, 84, 70), (62, 54, 46))  # tail
    c.curve(
        [(150, 62), (172, 66), (184, 84), (186, 106), (180, 138), (162, 170), (132, 190), (102, 190),
         (76, 178), (68, 162), (84, 138), (108, 112), (124, 84), (134, 68)],
        (138, 120, 96), (122, 106, 86),
    )  # fmt: skip
    c.curve([(150, 150), (176, 140), (164, 168), (136, 190), (104, 191), (110, 176)], (244, 238, 226),
            (214, 204, 188))  # fmt: skip
    c.curve(
        [(160, 70), (176, 72), (185, 88), (187, 110), (182, 136), (168, 156), (150, 158), (138, 142),
         (138, 116), (148, 96), (150, 80)],
        (236, 122, 42), (206, 84, 22),
    )  # fmt: skip
    c.curve([(122, 112), (140, 124), (136, 152), (112, 176), (80, 190), (58, 196), (72, 170), (96, 138)],
            (116, 100, 80), (78, 66, 54))  # fmt: skip
    for i in range(5):
        c.line([(124 - i * 9, 134 + i * 8), (112 - i * 10, 158 + i * 6)], 1.4, (62, 52, 42))
    c.polygon([(181, 82), (204, 90), (183, 95)], (78, 68, 56), (44, 38, 32))
    c.ellipse(165, 84, 6.4, 6.4, (24, 18, 16))
    c.ellipse(167, 82, 2, 2, (255, 255, 255))
    for x in (126, 146):
        c.line([(x, 188), (x + 3, 208)], 2.6, (104, 70, 46))
        c.line([(x - 5, 211), (x + 3, 207), (x + 13, 210)], 2.6, (104, 70, 46))
    return c


def deer() -> Canvas:
    """A stag at the edge of a forest."""
    c = Canvas(4)
    c.rows(0, 150, (198, 208, 190), (148, 164, 128))
    for x in range(-5, 270, 13):
        width = c.random.uniform(3, 8)
        tone = int(c.random.uniform(58, 98))
        c.box((x, 0, x + width, 166), (tone, tone + 4, tone - 10), (tone - 14, tone - 6, tone - 24))
    for _ in range(50):
        x, y = c.random.uniform(0, 256), c.random.uniform(0, 60)
        c.haze(x, y, 20, 14, (62, int(c.random.uniform(86, 122)), 48), 0.7)
    c.blur(2.5)
    c.rows(150, 256, (138, 154, 74), (92, 112, 48))
    c.mottle(150, 256, 8)
    c.haze(122, 230, 76, 7, (30, 40, 16), 0.8)
    brown, dark, pale = (176, 118, 68), (116, 72, 38), (222, 190, 150)
    far = (126, 80, 46)
    for x, lean in ((72, -3), (148, 3)):
        c.curve([(x + 6, 160), (x + 22, 160), (x + 17, 192), (x + 15 + lean, 226), (x + 8 + lean, 226),
                 (x + 9, 194)], far, (92, 58, 34))  # fmt: skip
    c.curve(
        [(50, 136), (70, 124), (104, 124), (138, 122), (152, 108), (164, 84), (172, 74), (184, 80),
         (184, 104), (176, 130), (168, 152), (150, 168), (112, 170), (84, 168), (62, 172), (48, 156)],
        brown, dark,
    )  # fmt: skip
    c.curve([(84, 168), (112, 166), (150, 164), (140, 171), (110, 174)], pale)
    c.curve([(44, 136), (54, 130), (56, 150), (47, 158)], pale, (200, 168, 130))  # tail
    for x, lean in ((52, -4), (136, 6)):
        c.curve([(x, 150), (x + 26, 152), (x + 18, 190), (x + 14 + lean, 230), (x + 5 + lean, 230),
                 (x + 8, 192)], (164, 108, 62), (104, 66, 38))  # fmt: skip
        c.box((x + 4 + lean, 226, x + 15 + lean, 233), (40, 30, 26))
    c.curve([(162, 80), (172, 66), (186, 64), (202, 76), (218, 88), (220, 96), (208, 100), (190, 96),
             (176, 98)], (186, 126, 74), (150, 98, 56))  # fmt: skip
    c.curve([(204, 94), (220, 92), (218, 101), (206, 101)], pale)
    c.ellipse(219, 90, 4, 3.4, (30, 24, 22))
    c.ellipse(190, 77, 3.4, 3, (26, 18, 14))
    c.ellipse(191, 76, 1, 1, (240, 240, 240))
    c.curve([(170, 72), (150, 62), (142, 66), (152, 76)], (150, 98, 56), (110, 70, 40))
    antler = (206, 180, 140)
    c.line([(178, 66), (168, 48), (166, 30), (176, 12)], 4, antler)
    c.line([(167, 40), (152, 30), (148, 16)], 3.4, antler)
    c.line([(172, 54), (160, 52), (150, 46)], 3, antler)
    c.line([(186, 65), (196, 46), (208, 34), (212, 14)], 4, antler)
    c.line([(200, 42), (196, 26), (198, 12)], 3.4, antler)
    c.line([(192, 54), (208, 50), (220, 40)], 3, antler)
    return c


def dog() -> Canvas:
    """A puppy's head and chest, facing the camera, on grass."""
    c = Canvas(5)
    c.rows(0, 256, (150, 190, 110), (78, 128, 52))
    c.mottle(0, 256, 9)
    c.blur(3)
    c.curve([(72, 262), (76, 210), (100, 182), (156, 182), (180, 210), (186, 262)], (206, 156, 92),
            (170, 118, 62))  # fmt: skip
    c.curve([(106, 262), (102, 216), (128, 196), (154, 216), (150, 262)], (250, 244, 234), (222, 208, 188))
    c.box((92, 182, 164, 193), (196, 30, 40), (140, 14, 26), radius=5)
    c.ellipse(128, 197, 7, 7, (250, 214, 90), (196, 146, 30))
    c.curve(
        [(128, 44), (166, 52), (186, 82), (186, 120), (172, 156), (150, 184), (128, 190), (106, 184),
         (84, 156), (70, 120), (70, 82), (90, 52)],
        (224, 172, 104), (196, 142, 78),
    )  # fmt: skip
    c.curve([(128, 46), (137, 80), (140, 112), (164, 134), (162, 162), (146, 182), (128, 188), (110, 182),
             (94, 162), (92, 134), (116, 112), (119, 80)], (254, 250, 244), (232, 220, 204))  # fmt: skip
    for side in (-1, 1):
        ear = [(30, 50), (54, 50), (78, 78), (82, 122), (70, 150), (54, 140), (50, 104), (42, 74)]
        c.curve([(128 + side * x, y) for x, y in ear], (150, 96, 46), (104, 62, 28))
        c.ellipse(128 + side * 28, 100, 10.5, 11.5, (66, 40, 24), (32, 18, 12))
        c.ellipse(128 + side * 28 + 3.4, 95.6, 3.4, 3.4, (255, 255, 255))
        c.line(_ellipse_points(128 + side * 28, 90, 13, 12, 215, 325), 2, (160, 112, 60))
        mouth = _ellipse_points(128 + side * 12, 152, 12, 11, 10 if side > 0 else 0, 180)
        c.line(mouth, 2.6, (70, 44, 36))
    c.curve([(118, 162), (138, 162), (140, 178), (128, 188), (116, 178)], (244, 128, 136), (220, 90, 104))
    c.line([(128, 138), (128, 160)], 2.6, (70, 44, 36))
    c.curve([(110, 124), (128, 120), (146, 124), (142, 138), (128, 145), (114, 138)], (58, 44, 42),
            (20, 14, 14))  # fmt: skip
    c.haze(122, 126, 7, 3, (210, 204, 204), 0.8)
    return c


def frog() -> Canvas:
    """A green frog on a lily pad, facing the camera."""
    c = Canvas(6)
    c.rows(0, 256, (40, 74, 78), (22, 52, 58))
    c.mottle(0, 256, 8, 6)
    c.haze(60, 60, 60, 16, (120, 160, 150), 0.5)
    c.blur(2)
    c.ellipse(128, 206, 118, 40, (120, 172, 70), (62, 112, 40))
    for angle in np.radians(np.arange(200, 345, 18)):
        c.line([(128, 206), (128 + 112 * np.cos(angle), 206 + 38 * np.sin(angle))], 1, (150, 194, 96))
    c.haze(128, 206, 84, 16, (18, 44, 16), 0.9)
    light, mid, deep = (142, 208, 62), (92, 164, 40), (50, 112, 26)
    for side in (-1, 1):
        thigh = [(40, 142), (74, 136), (94, 160), (92, 192), (70, 206), (40, 198)]
        c.curve([(128 + side * x, y) for x, y in thigh], mid, deep)
        foot = [(52, 198), (88, 198), (110, 208), (106, 214), (84, 211), (62, 214), (48, 208)]
        c.curve([(128 + side * x, y) for x, y in foot], mid, deep)
    c.curve([(128, 92), (172, 104), (190, 140), (184, 182), (156, 206), (128, 210), (100, 206), (72, 182),
             (66, 140), (84, 104)], light, mid)  # fmt: skip
    c.curve([(128, 148), (170, 142), (174, 174), (152, 202), (128, 206), (104, 202), (82, 174), (86, 142)],
            (240, 242, 196), (206, 214, 144))  # fmt: skip
    for side in (-1, 1):
        arm = [(44, 158), (58, 164), (52, 190), (46, 208), (32, 208), (38, 186)]
        c.curve([(128 + side * x, y) for x, y in arm], mid, deep)
        for toe in (-12, -3, 7):
            c.line([(128 + side * 39, 205), (128 + side * (39 + toe), 216)], 5, deep)
            c.ellipse(128 + side * (39 + toe), 217, 4, 3.2, mid)
    c.curve([(128, 78), (176, 84), (198, 112), (186, 138), (152, 154), (128, 156), (104, 154), (70, 138),
             (58, 112), (80, 84)], light, mid)  # fmt: skip
    for x, y, r in ((112, 100, 5), (150, 98, 4), (132, 92, 3.4), (88, 116, 3.4), (170, 118, 4)):
        c.ellipse(x, y, r, r * 0.8, (84, 150, 36))
    c.line(_ellipse_points(128, 104, 62, 36, 20, 160), 2.6, (44, 84, 24))
    for side in (-1, 1):
        x = 128 + side * 40
        c.ellipse(x, 78, 22, 21, light, mid)
        c.ellipse(x, 77, 16, 16, (252, 214, 70), (214, 150, 30))
        c.ellipse(x, 77, 11, 7.5, (16, 14, 12))
        c.ellipse(x + 4, 73, 3, 3, (255, 255, 255))
        c.ellipse(128 + side * 7, 112, 2, 1.6, (50, 100, 26))
    return c


def horse() -> Canvas:
    """A horse, from a CC0 silhouette, shaded brown in a meadow."""
    c = Canvas(7)
    c.rows(0, 140, (112, 168, 226), (222, 234, 240))
    c.cloud(60, 40, 20)
    c.cloud(196, 62, 14)
    c.curve([(-40, 170), (-10, 122), (60, 112), (120, 128), (190, 110), (270, 124), (300, 170)],
            (122, 150, 112), (104, 138, 84))  # fmt: skip
    c.rows(142, 256, (136, 172, 78), (86, 128, 44))
    c.mottle(134, 256, 9)
    c.blur(1.5)
    c.haze(124, 226, 88, 6, (36, 56, 18), 0.85)
    with Image.open(HERE / "horse_silhouette.png") as silhouette:
        black_on_white = silhouette.convert("L").resize((224 * SCALE, 184 * SCALE))
    mask = Image.new("L", c.image.size)
    mask.paste(ImageChops.invert(black_on_white), (16 * SCALE, 46 * SCALE))
    c.paint(mask, (172, 104, 58), (70, 38, 22))
    for x, y, rx, ry in ((76, 104, 40, 12), (172, 80, 16, 22), (150, 116, 24, 16)):  # light from above
        glow = Canvas(0)
        glow.haze(x, y, rx, ry, (255, 255, 255), 0.4)
        c.paint(ImageChops.multiply(glow.image.convert("L"), mask), (226, 166, 110))
    c.ellipse(219, 68, 2, 1.8, (20, 12, 8))
    return c


def ship() -> Canvas:
    """A cargo ship at sea."""
    c = Canvas(8)
    c.rows(0, 150, (96, 154, 214), (214, 230, 240))
    c.cloud(56, 50, 20)
    c.cloud(190, 36, 24)
    c.rows(148, 256, (54, 112, 152), (18, 58, 98))
    c.mottle(150, 256, 8, 8)
    hull = [(16, 142), (30, 142), (200, 142), (244, 132), (228, 176), (36, 178), (24, 166)]
    c.polygon(hull, (32, 46, 74), (20, 28, 46))
    c.polygon([(25, 166), (232, 164), (228, 176), (36, 178)], (176, 38, 34), (124, 20, 22))
    c.polygon([(16, 142), (200, 142), (244, 132), (243, 135), (201, 146), (17, 146)], (230, 232, 236))
    c.box((32, 92, 72, 142), (250, 251, 253), (206, 212, 220))
    c.box((28, 88, 78, 96), (236, 240, 244), (190, 198, 208))
    c.box((38, 78, 64, 90), (250, 250, 252), (214, 220, 228))
    for y in (100, 112, 124):
        for x in (38, 47, 56, 65):
            c.box((x - 2.5, y, x + 2.5, y + 5), (52, 70, 92), radius=1)
    c.box((34, 80, 68, 84.5), (40, 56, 78), radius=1)
    c.box((40, 58, 54, 79), (212, 60, 44), (164, 34, 28))
    c.box((40, 58, 54, 63), (36, 36, 40))
    for i in range(6):
        c.haze(36 - i * 8, 50 - i * 5, 8 + i * 3, 5 + i * 2, (120, 120, 124), 0.35)
    c.line([(62, 80), (62, 56)], 1.6, (90, 96, 104))
    colours = [(206, 84, 44), (52, 116, 168), (64, 138, 86), (216, 170, 60), (150, 54, 60), (110, 118, 130)]
    for column in range(5):
        for row in range(3 if column < 4 else 2):
            r, g, b = colours[(column * 2 + row * 3) % 6]
            left, top = 84 + column * 23, 127 - row * 14
            c.box((left, top, left + 22, top + 13.4), (r, g, b), (r * 3 // 4, g * 3 // 4, b * 3 // 4), 0.6)
            for rib in range(1, 6):
                x = left + rib * 3.7
                c.line([(x, top + 2), (x, top + 12)], 0.6, (r * 2 // 3, g * 2 // 3, b * 2 // 3))
    c.line([(220, 138), (220, 108)], 2, (224, 226, 230))
    c.line([(220, 112), (202, 141)], 0.7, (90, 96, 104))
    for x in np.linspace(24, 236, 40):
        y = 178 + c.random.normal(0, 1.6)
        c.haze(x, y, 8, 2.4, (236, 244, 248), 0.75)
    c.haze(132, 196, 96, 10, (14, 34, 58), 0.6)
    return c


def truck() -> Canvas:
    """A lorry with a box body on a road."""
    c = Canvas(9)
    c.rows(0, 140, (126, 176, 226), (226, 236, 242))
    c.cloud(196, 36, 18)
    c.curve([(-30, 176), (-10, 128), (60, 112), (130, 130), (200, 108), (280, 130), (290, 176)],
            (134, 158, 130), (112, 142, 92))  # fmt: skip
    c.rows(156, 180, (142, 162, 84), (112, 134, 66))
    c.mottle(140, 180, 6)
    c.blur(1)
    c.rows(176, 256, (118, 118, 122), (82, 82, 86))
    c.mottle(176, 256, 5, 2)
    c.polygon([(0, 232), (256, 232), (256, 236), (0, 236)], (222, 218, 206))
    c.haze(128, 212, 116, 8, (18, 18, 22), 0.95)
    c.box((22, 182, 226, 196), (60, 62, 68), (34, 34, 38))
    c.box((14, 66, 164, 186), (250, 250, 250), (204, 208, 214), radius=2)
    for x in range(26, 164, 12):
        c.line([(x, 70), (x, 182)], 0.7, (214, 217, 222))
    c.box((14, 118, 164, 138), (232, 134, 34), (206, 104, 20), radius=0.5)
    c.box((14, 66, 164, 70), (176, 182, 190), radius=1)
    c.box((14, 182, 164, 187), (150, 156, 164), radius=1)
    c.curve([(170, 192), (168, 110), (174, 98), (204, 96), (218, 104), (232, 140), (242, 148), (244, 190),
             (236, 195)], (40, 104, 190), (22, 62, 124))  # fmt: skip
    c.polygon([(184, 108), (204, 106), (213, 110), (224, 140), (184, 141)], (168, 196, 216), (52, 72, 92))
    c.polygon([(190, 108), (198, 107), (192, 141), (184, 141), (184, 124)], (206, 222, 234), (96, 120, 140))
    c.line([(180, 104), (180, 190), (224, 190), (226, 146)], 1, (16, 44, 92))
    c.box((184, 150, 194, 153), (14, 36, 76), radius=1)
    c.box((226, 122, 231, 142), (30, 32, 38), radius=2)
    c.box((234, 160, 245, 172), (255, 248, 214), (232, 206, 140), radius=3)
    c.box((228, 186, 248, 198), (70, 74, 80), (40, 42, 46), radius=3)
    c.box((164, 176, 170, 192), (40, 40, 44))
    for x in (50, 88, 206):
        _wheel(c, x, 198, 18)
    return c


PICTURES = (airplane, automobile, bird, deer, dog, frog, horse, ship, truck)


def main() -> None:
    """Draw every picture into the folder of this file."""
    for picture in PICTURES:
        path = HERE / f"{picture.__name__}.jpg"
        picture().finished().save(path, quality=92)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
