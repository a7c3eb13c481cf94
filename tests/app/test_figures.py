"""The Attack tab's figures: what they say, mark and name, from plain values."""

import pytest
import torch

from app.figures import entropies, pictures, probabilities, subsets, verdict
from app.figures.values import table


def said(members: list[list[float]], classes: list[str], entropy: float = 0.5, threshold: float | None = 0.6) -> dict:
    ensemble = [sum(column) / len(members) for column in zip(*members, strict=True)]
    flagged = None if threshold is None else entropy > threshold
    label = classes[ensemble.index(max(ensemble))]
    return {
        **{"classes": classes, "members": members, "ensemble": ensemble, "label": label},
        **{"entropy": entropy, "threshold": threshold, "flagged": flagged},
    }


BEFORE = said([[0.9, 0.1], [0.7, 0.3]], ["cat", "dog"])
AFTER = said([[0.2, 0.8], [0.6, 0.4]], ["cat", "dog"], entropy=0.65)


def test_probabilities_have_a_bar_for_each_voice_before_and_after_and_mark_the_true_class():
    value = probabilities.figure("cat", BEFORE, AFTER)
    assert [trace["name"] for trace in value["data"]] == ["f1", "f2", "ensemble"] * 2
    assert value["layout"]["yaxis"]["ticktext"] == ["<b>✓ cat</b>", "dog"]
    assert "f1 dog at 0.80" in value["description"]
    assert "The true class is cat." in value["description"]
    assert "0.8000" in probabilities.numbers(BEFORE, AFTER)


def test_of_many_classes_the_likeliest_and_the_true_one_are_shown():
    classes = [f"c{i}" for i in range(100)]
    row = [(100 - i) / 5050 for i in range(100)]
    value = probabilities.figure("c99", said([row, row], classes))
    assert [t.strip("<b>/✓ ") for t in value["layout"]["yaxis"]["ticktext"]] == [*(f"c{i}" for i in range(9)), "c99"]


def test_entropies_stand_on_one_scale_with_the_threshold():
    value = entropies.figure(BEFORE, AFTER)
    assert value["description"].startswith("Entropy of the ensemble: 0.50 nats before the attack, 0.65 after it")
    assert any(shape["x0"] == 0.6 for shape in value["layout"]["shapes"])
    without = entropies.figure(said([[1.0, 0.0]], ["a", "b"], threshold=None))
    assert "shapes" not in without["layout"]
    assert "flagged" in entropies.numbers(BEFORE, AFTER)


@pytest.mark.parametrize(
    ("before", "after", "arrows", "words"),
    [
        ("S11", None, 0, "The picture is in S11."),
        ("S11", "S01", 1, "Before the attack the picture is in S11, after it in S01."),
        ("S11", "S11", 1, "in S11, before and after the attack."),
    ],
)
def test_table_1_has_four_places_and_the_way_taken(before: str, after: str | None, arrows: int, words: str):
    svg = subsets.picture(before, after)
    assert [name in svg for name in (">11<", ">01<", ">10<", ">00<")] == [True] * 4
    assert svg.count("<line") == arrows
    assert words in svg


def test_table_1_has_the_paper_s_orientation():
    """Columns are f1 right, f1 wrong; rows are f2 right, f2 wrong."""
    (x11, y11), (x01, y01), (x10, y10) = (subsets._centre(name) for name in ("S11", "S01", "S10"))
    assert x01 > x11 and y01 == y11
    assert y10 > y11 and x10 == x11


def test_other_numbers_of_members_are_bit_strings():
    html = subsets.picture("S101", "S100")
    assert "<svg" not in html
    assert html.count("✗ wrong") == 3
    assert "f3" in html


def test_pictures_tell_right_and_wrong_by_words_and_keep_their_places():
    x, x_adv = torch.zeros(1, 8, 8), torch.full((1, 8, 8), 8 / 255)
    waiting = pictures.triptych(x, "3", True)
    done = pictures.triptych(x, "3", True, (x_adv, "8", False, 8 / 255, 8 / 255))
    assert waiting.count("<figure>") == done.count("<figure>") == 3
    assert 'Perturbation × <span class="between-factor">16</span>' in done and "at most 8/255" in done
    assert "✓ right" in done and "✗ wrong" in done
    assert pictures.magnified(x, x_adv, 16).max() == 1
    assert pictures.magnification(0) == 1


def test_what_comes_from_a_checkpoint_cannot_break_the_page():
    evil = said([[0.9, 0.1]], ["<img onerror=x>", "dog"])
    for html in (
        pictures.triptych(torch.zeros(1, 8, 8), evil["label"], True),
        verdict.answers("dog", evil, None),
        probabilities.numbers(evil, None),
        table("<b>", ["<b>"], [["<b>"]]),
    ):
        assert "<img onerror" not in html and "<b></" not in html
