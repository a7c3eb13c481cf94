"""Detection's figures on the page: three columns always, one colour a sample, a threshold to move."""

import re

import numpy as np
import pytest

from app.figures import detection as drawn
from cce.config import Detector
from cce.evaluation.detection import DetectionReport, Sample
from cce.reporting import figures


def sample(name: str, entropies: list[float], right: str, settings: dict | None = None) -> Sample:
    values = np.array(entropies)
    scores = {"entropy": values, "max probability": values / 3, "disagreement": values / 4}
    return Sample(name, np.array([r == "1" for r in right]), scores, settings or {})


PGD = {"name": "pgd", "epsilon": 8 / 255, "step_size": 1 / 255}


@pytest.fixture
def report() -> DetectionReport:
    return DetectionReport(
        sample("clean", [0.1, 0.2, 0.3, 0.9], "1111"),
        (sample("PGD <8>", [1.0, 1.2, 0.4, 1.4], "0010", PGD), sample("FGSM", [1.0, 1.0, 1.0, 1.0], "0000")),
        (sample("agree", [0.1, 0.2], "00"), sample("smooth", [0.3, 0.2], "00")),
        (sample("JPEG", [0.1, 0.2, 0.3, 0.8], "1111"), sample("blur", [0.1, 0.1, 0.1, 0.1], "1111")),
        {"entropy": Detector(0.5, 0.05, "numbers", 180)},
    )


def test_the_board_has_one_sample_of_each_column_and_the_scores_of_all(report):
    value = drawn.board(report, {"adaptive": "smooth"}, 0.5, True, "key")
    assert [s["name"] for s in value["samples"] if s["shown"]] == ["clean", "PGD <8>", "smooth", "JPEG"]
    assert len(value["samples"]) == 7
    assert value["samples"][1] == {
        **{"kind": "attack", "name": "PGD <8>", "right": "0010", "shown": True},
        "values": [1.0, 1.2, 0.4, 1.4],
    }
    assert value["cards"].count("data-sample=") == 4
    assert all(title in value["cards"] for title in ("Clean pictures", *drawn.TITLES.values()))
    assert "PGD &lt;8&gt;" in value["cards"] and "<8>" not in value["cards"]
    assert not [t for t in value["data"] if t["name"] == "threshold"]  # the page draws it, to be dragged
    assert [value["layout"][a]["range"] for a in ("xaxis", "xaxis2", "xaxis3")] == [[0, 1.02 * 1.4]] * 3
    assert "clean 25.0 %" in value["description"] and "smooth: 0.0 %" in value["description"]


def test_the_table_has_every_sample_in_its_column_with_its_colour(report):
    html = drawn.table(report)
    assert [m for m in re.findall(r'colgroup">([^<]+)<', html)] == list(drawn.TITLES.values())
    assert html.count("data-rate=") == 14
    assert f'background:{figures.LINES[1]}"></i>FGSM' in html
    assert "3. JPEG" in html  # numbered as the bars of Figure 4


def test_roc_and_auc_are_the_command_line_s_figures_without_its_title_and_legend(report):
    roc = drawn.roc(report, "key")
    assert roc["data"] == figures.roc_curves(report)["data"]
    assert "title" not in roc["layout"] and "width" not in roc["layout"] and not roc["layout"]["showlegend"]
    assert roc["narrow"]["xaxis3"]["domain"] == [0, 1] and roc["layout"]["xaxis3"]["domain"][0] > 0.6
    assert roc["narrow"]["height"] > 2 * roc["layout"]["height"]
    assert "FGSM 1.0000" in roc["description"]
    assert "0.9375 at" not in drawn.auc(report, "key")["description"]
    assert drawn.auc(report, "key")["description"].startswith("AUC of PGD by epsilon: ")


def test_a_picture_stands_before_the_histogram_of_clean_ones():
    said = {"classes": list("ab"), "entropy": 0.4, "threshold": 0.5, "flagged": False}
    value = drawn.standing(said, None, [0.1, 0.1, 0.6], "3 clean pictures")
    bars = value["data"][0]
    assert bars["type"] == "bar" and sum(bars["customdata"]) == 3
    assert value["description"].endswith("Behind it the histogram of 3 clean pictures.")
