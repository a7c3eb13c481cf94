"""The part of a picture that is used can be moved: on the page, in its link, at the endpoints, on the command line."""

import json

import pytest
import torch
from PIL import Image

from app.services import attacks, links
from app.tabs import picture_picker
from cce.__main__ import main
from cce.config import AttackConfig, ConfigError
from cce.data.pictures import read_picture, to_model_input

SHAPE = (1, 8, 8)


@pytest.fixture
def wide(tmp_path):
    """A picture that is black on its left half, and white on its right one."""
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (40, 0, 80, 40))
    image.save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_the_crop_of_an_upload_is_moved_to_another_place(wide):
    picture = attacks.open_upload(wide, SHAPE)
    assert picture.place == 0.5 and picture.whole is not None
    left, right = attacks.move_crop(picture, 0), attacks.move_crop(picture, 100)
    assert left.pixels.max() == 0 and right.pixels.min() == 1 and right.place == 1.0
    assert torch.equal(attacks.open_upload(wide, SHAPE, crop=100).pixels, right.pixels)
    assert torch.equal(attacks.refit(right, (1, 16, 16)).pixels, torch.ones(1, 16, 16))
    assert "cropped to the right 40 pixels" in picture_picker.fitted(right)
    assert "cropped to the middle 40 pixels" in picture_picker.fitted(picture)


def test_a_large_upload_is_kept_smaller_and_a_square_one_not_at_all(tmp_path):
    Image.new("RGB", (3000, 2000)).save(tmp_path / "large.png")
    whole = attacks.open_upload(tmp_path / "large.png", SHAPE).whole
    assert whole is not None and 0.9e6 < whole.width * whole.height <= attacks.WHOLE_PIXELS
    Image.new("RGB", (300, 300)).save(tmp_path / "square.png")
    square = attacks.open_upload(tmp_path / "square.png", SHAPE)
    assert square.whole is None and attacks.move_crop(square, 0) is square


@pytest.mark.parametrize("crop", [-1, 101, float("nan"), None, "left", True])
def test_a_place_that_is_none_is_refused_in_words(crop, wide):
    with pytest.raises(ConfigError, match="The crop is .*from 0 .left or top. to 100"):
        attacks.open_upload(wide, SHAPE, crop=crop)


def test_the_slider_is_there_for_pictures_that_are_longer_on_one_side(wide, tmp_path):
    shown = picture_picker.crop_settings(attacks.open_upload(wide, SHAPE, crop=25))
    assert shown == {"value": 25.0, "visible": True, "label": "Part that is used, left to right (%)"}
    Image.open(wide).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "tall.png")
    assert "top to bottom" in picture_picker.crop_settings(attacks.open_upload(tmp_path / "tall.png", SHAPE))["label"]
    Image.new("RGB", (40, 40)).save(tmp_path / "square.png")
    assert not picture_picker.crop_settings(attacks.open_upload(tmp_path / "square.png", SHAPE))["visible"]


def test_a_link_keeps_the_crop(registry, studio):
    checkpoint = registry.get("tiny-two")
    setting = links.Setting("tiny-two", "cat", attacks.AUTO, AttackConfig(), crop=75)
    said = links.read(links.query(setting, checkpoint.classes))
    assert said["crop"] == "75"
    again = links.setting_of(said, "tiny-two", checkpoint, [])
    assert again.crop == 75 and not again.problems
    found = links.picture_of("cat", studio.collection(checkpoint), checkpoint, again.crop)
    assert found is not None and found[0].place == 0.75
    assert "crop" not in links.read(links.query(links.Setting("tiny-two", "cat", "auto", AttackConfig()), ()))


@pytest.mark.parametrize("crop", ["left", "-3", "nan", "1e9"])
def test_a_crop_of_a_link_that_cannot_be_used_is_told(crop, registry):
    setting = links.setting_of({"crop": crop}, "tiny-two", registry.get("tiny-two"), [])
    assert setting.crop == 50 and "The crop is" in " ".join(setting.problems)


def test_the_command_line_takes_a_crop(wide, tiny_checkpoints, capsys):
    found = []
    for crop in ("0", "100"):
        words = ["attack", str(tiny_checkpoints / "tiny-two"), str(wide), "--steps", "1", "--json", "--threads", "1"]
        assert main([*words, "--crop", crop]) == 0
        found.append(json.loads(capsys.readouterr().out)["benign"]["ensemble"])
    assert found[0] != found[1]
    left, _ = to_model_input(read_picture(wide), *SHAPE, place=0.0)
    assert left.max() == 0
    assert main(["attack", str(tiny_checkpoints / "tiny-two"), "test:0", "--crop", "0"]) == 2
    assert "a test picture is taken whole" in capsys.readouterr().err
