"""The Transferability tab's service and drawings, without a page."""

import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.figures import flow, matrix, metrics, subset_pictures
from app.services import transferability as service
from app.services.work import CancelledWork, Work
from app.studio import Studio
from app.tabs import transferability as tab
from cce.checkpoints.measurements import add_black_box, write_measurement
from cce.config import AttackConfig, ConfigError
from cce.data import datasets as data
from cce.evaluation.transferability import BlackBox, transferability

PGD = AttackConfig("pgd", 0.15, 0.05, 3)


@pytest.fixture(scope="module")
def found(studio: Studio) -> service.Found:
    return service.measure(studio, "tiny-two", 24, PGD, seed=2)


def test_it_is_the_library_s_measurement_on_the_pictures_that_are_here(studio: Studio, found: service.Found):
    test = data.load("digits", size=8).test.first(24)
    model = studio.registry.get("tiny-two").model
    assert found.table == transferability(model, test.pixels(), test.labels, PGD, seed=2)
    assert torch.equal(found.images, test.images) and found.x_adv.dtype == torch.uint8
    assert (found.x_adv.int() - found.images.int()).abs().max() <= round(0.15 * 255) + 1
    assert "first 24 Digits test pictures, n = 24. So few images" in found.source
    answer = json.loads(json.dumps(service.endpoint(found)))
    assert set(answer) >= {"a", "names", "subsets", "flow", "T", "nT", "a_single", "images", "data"}
    assert answer["attack"]["epsilon"] == 38.25 and len(answer["a"]) == 3


def test_the_pictures_of_a_way_are_those_the_flow_counts(found: service.Found):
    assert sum(map(len, (found.before, found.after))) == 48
    for before, row in found.table.flow.items():
        for after, count in row.items():
            assert len(found.places(before, after)) == count
        assert len(found.places(before, None)) == sum(row.values())
    assert found.places(None, None) == list(range(24))


def test_more_than_there_are_is_all_there_are(studio: Studio):
    made = service.measure(studio, "tiny-two", 2000, AttackConfig("fgsm", 0.1))
    assert made.table.images == 360


def test_cancel_stops_it_within_a_second(studio: Studio):
    work, ended = Work(), []

    def measure():
        try:
            service.measure(studio, "tiny-three", 360, AttackConfig("pgd", 0.1, 0.01, 130), work=work)
        except CancelledWork:
            ended.append(time.process_time())

    thread = threading.Thread(target=measure)
    thread.start()
    while work.fraction == 0 and thread.is_alive():
        time.sleep(0.01)
    asked = time.process_time()  # a second of work, however much of the machine others have
    work.cancel()
    thread.join(120)
    assert ended and ended[0] - asked < 1


def test_released_figures_come_with_where_they_are_from(studio: Studio, found: service.Found, tmp_path: Path):
    checkpoint = studio.registry.get("tiny-two")
    assert service.released(checkpoint) is None
    record = {"data": "the first 24 test images of digits", "n": 24, "transferability": found.table.to_json()}
    folder, checkpoint.folder = checkpoint.folder, tmp_path
    try:
        write_measurement(checkpoint, "transferability", record)
        shipped = service.released(checkpoint)
    finally:
        checkpoint.folder = folder
    assert shipped.table == found.table and shipped.images is None
    assert shipped.source == "Measured at release on the first 24 test images of Digits, n = 24."


def test_what_ensembles_did_to_each_other_at_release_is_shown(studio: Studio, tmp_path: Path):
    checkpoint = studio.registry.get("tiny-two")
    assert service.released_between(checkpoint) is None
    assert "Nothing compared yet" in tab._released_between(studio, "tiny-two")[0]
    made = BlackBox(("tiny-three", "tiny-two"), 24, PGD, (1.0, 0.5), ((0.25, 0.75), (0.5, 0.0)))
    record = {"data": "the first 24 test images of digits", "n": 24, "black_box": made.to_json()}
    folder, checkpoint.folder = checkpoint.folder, tmp_path
    try:
        add_black_box(checkpoint, record)
        assert service.released_between(checkpoint) == (
            made,
            "Measured at release on the first 24 test images of Digits, n = 24.",
        )
        words, square = tab._released_between(studio, "tiny-two")
        for names, epsilon, shown in ((("tiny-two",), 0.3, PGD.epsilon), (("tiny-one", "tiny-two"), 0.4, 0.4)):
            table = tuple(tuple(0.5 for _ in names) for _ in names)
            other = BlackBox(names, 24, replace(PGD, epsilon=epsilon), tuple(1.0 for _ in names), table)
            add_black_box(checkpoint, {**record, "black_box": other.to_json()})
            assert service.released_between(checkpoint)[0].attack.epsilon == shown  # most ensembles, then the last
    finally:
        checkpoint.folder = folder
    assert "Measured at release" in words and "PGD k=3" in words
    assert re.findall(r">([\d.]+)</td>", square) == ["100.0", "50.0", "25.0", "75.0", "50.0", "0.0"]


def test_a_damaged_record_is_said_and_stops_nothing(studio: Studio, tmp_path: Path):
    checkpoint = studio.registry.get("tiny-two")
    (tmp_path / "measurements").mkdir()
    for name in ("transferability", "black-box"):
        (tmp_path / "measurements" / f"{name}.json").write_text("{")
    folder, checkpoint.folder = checkpoint.folder, tmp_path
    try:
        flow_words, black_box_words = tab._released(studio, "tiny-two")[0], tab._released_between(studio, "tiny-two")[0]
    finally:
        checkpoint.folder = folder
    assert "Measurements/transferability.json cannot be read" in flow_words
    assert "Measurements/black-box.json cannot be read" in black_box_words
    assert str(tmp_path) not in flow_words + black_box_words


def test_between_ensembles(studio: Studio):
    names = [name for _, name in service.comparable(studio, "tiny-two")]
    assert names == ["tiny-three", "tiny-two"]
    assert service.nearest(studio, "tiny-two") == ["tiny-two", "tiny-three"]
    assert service.nearest(studio, "tiny-two", 1) == ["tiny-two"] and service.nearest(studio, "gone") == []
    made, source = service.between(studio, names, 10, PGD)
    assert made.names == ("tiny-three", "tiny-two") and made.images == 10 and "n = 10" in source


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: service.measure(s, "tiny-two", 0, PGD), "The number of images is 0"),
        (lambda s: service.measure(s, "tiny-two", 2.5, PGD), "The number of images is 2.5"),
        (lambda s: service.measure(s, "tiny-two", None, PGD), "The number of images is empty"),
        (lambda s: service.measure(s, "tiny-two", 1e9, PGD), "from 1 to 2,000"),
        (lambda s: service.measure(s, "tiny-two", 4, PGD, seed=-1), "The seed is -1"),
        (lambda s: service.settings("spsa", 8, 2, 20), "The attack is 'spsa'; here there is pgd, bim"),
        (lambda s: service.settings("pgd", 300, 2, 20), "Epsilon is 300"),
        (lambda s: service.between(s, ["tiny-two"], 4, PGD), "at least two ensembles"),
    ],
)
def test_what_cannot_be_done_is_said(studio: Studio, call, words: str):
    with pytest.raises(ConfigError, match=words):
        call(studio)


# Drawings


def test_the_flow_draws_every_way_with_its_count():
    counts = {"S111": {"S111": 5, "S010": 2}, "S000": {"S000": 3}}
    drawn = flow.picture(counts, 10, clickable=True)
    buttons = re.findall(r'data-before="(\w*)" data-after="(\w*)" aria-label="([^"]+)"', drawn)
    ways = {(b, a): words for b, a, words in buttons if b and a}
    assert set(ways) == {("S111", "S111"), ("S111", "S010"), ("S000", "S000")}
    assert ways["S111", "S010"].startswith("2 images from S111 to S010")
    sides = {(b, a): words for b, a, words in buttons if not (b and a)}
    assert sides["S111", ""].startswith("7 of 10 images in S111 before the attack, all right")
    assert "f1 wrong, f2 right, f3 wrong" in sides["", "S010"]
    assert drawn.count('tabindex="0"') == len(buttons) == 8 and "✗✓✗" in drawn
    still = flow.picture(counts, 10, clickable=False)
    assert "tabindex" not in still and 'role="img"' in still


def test_the_square_says_its_numbers_in_words_too():
    value = matrix.figure([[1, 0.5], [0.25, 0]], ["clean", "attack on f1"], ["f1", "en"], "", "who is asked", ["#123"])
    assert value["description"] == "Accuracy in percent. clean: f1 100.0, en 50.0; attack on f1: f1 25.0, en 0.0."
    assert [a["text"] for a in value["layout"]["annotations"]] == ["100.0", "50.0", "25.0", "0.0"]
    low, high = value["layout"]["yaxis"]["range"]
    assert low > high  # the first row on top


def test_the_table_of_ensembles_numbers_its_columns_and_marks_what_meets_its_own():
    shown = matrix.square("what", [[1, 0.5], [0.25, 0], [0.125, 0.75]], ["clean", "RM <2>", "DM"], ["RM <2>", "DM"])
    assert re.findall(r"<th scope=\"row\">([^<]+)", shown) == ["clean", "1. RM &lt;2&gt;", "2. DM"]
    assert re.findall(r'aria-label="([^"]+)">(\d)<', shown) == [("RM &lt;2&gt;", "1"), ("DM", "2")]
    cells = re.findall(
        r"<td style=\"background: rgb\(\d+, \d+, \d+\); color: (#\w+)\"( class=\"own\")?>([\d.]+)", shown
    )
    assert [c[2] for c in cells] == ["100.0", "50.0", "25.0", "0.0", "12.5", "75.0"]
    assert [bool(c[1]) for c in cells] == [False, False, True, False, False, True]
    assert cells[0][0] == "#fff" and cells[3][0] == "#111"  # readable on dark and on light


def test_metrics_have_definitions_and_no_minus_zero(found: service.Found):
    shown = metrics.metric_cards(found.table)
    assert shown.count('class="value"') == 3 and "a(i, j)" in shown and "-0.0" not in shown
    assert metrics.metric_cards(None).count("–") == 3


def test_pictures_are_shown_in_pairs_with_right_and_wrong_in_signs():
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    shown = subset_pictures.grid("From S11 to S00", x, x, ["3", "<i>"], [("3", "5"), ("1", "1")], 40)
    assert shown.count("<img") == 4 and "40 pictures, the first 2 shown" in shown
    assert "3 ✓" in shown and "5 ✗" in shown and "<i>" not in shown
