"""The one result that detection is shown from: three columns or nothing."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import auc as area
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from cce.checkpoints.folder import Checkpoint
from cce.config import ATTACKS, CCE_DM, SCORES, AttackConfig, ConfigError, Detector, ModelConfig
from cce.evaluation.detection import DetectionReport, Sample, report_from_json, roc
from cce.evaluation.evaluate import detect, outcome, sample
from cce.models import Ensemble
from cce.reporting import drawing, figures, report


def made(name: str, entropies, right=None, settings=None) -> Sample:
    values = np.array(entropies, dtype=float)
    right = np.ones(len(values), dtype=bool) if right is None else np.array(right, dtype=bool)
    return Sample(name, right, dict.fromkeys(SCORES, values), settings or {})


@pytest.fixture
def small() -> DetectionReport:
    """Clean 1 2 3 4, threshold 3: one in four is flagged."""
    return DetectionReport(
        made("clean", [1, 2, 3, 4], [1, 1, 1, 0]),
        (made("PGD", [5, 5, 2, 9], [0, 1, 0, 0], {"name": "pgd", "epsilon": 8 / 255, "step_size": 1 / 255}),),
        (made("agreeing members", [0, 1.5], [0, 0]),),
        (made("noise", [4, 4, 1, 1]),),
        {"entropy": Detector(3.0, 0.25, "four numbers", 4)},
    )


def test_rows_by_hand(small):
    clean, pgd, aware, noise = small.rows()
    assert clean == {
        "kind": "clean", "name": "clean", "images": 4, "accuracy": 0.75, "flagged": 0.25, "wrong_and_unflagged": 0,
    }  # fmt: skip
    # 5 and 5 beat all four, 9 too, 2 beats one and ties with one: (4 + 4 + 4 + 1.5) / 16.
    assert pgd["auc"] == pytest.approx(13.5 / 16)
    # Turned from right to wrong: the first and the third, 5 and 2.
    assert pgd["auc_successful"] == pytest.approx(5.5 / 8)
    assert (pgd["flagged"], pgd["wrong_and_unflagged"]) == (0.75, 0.25)
    # Two images only: against the clean 1 and 2. 0 beats none, 1.5 beats one.
    assert (aware["auc"], aware["images"]) == (0.25, 2)
    assert (aware["flagged"], aware["wrong_and_unflagged"]) == (0, 1)
    assert noise["auc"] == pytest.approx((4 * 1 + 3 + 0.5 + 3 + 0.5 - 4 + 1) / 16)
    assert noise["auc_successful"] is None
    assert "flagged" not in small.rows("disagreement")[1]


@pytest.mark.parametrize("missing", ["attacks", "adaptive", "benign"])
def test_no_report_without_all_three_columns(small, missing):
    parts = {k: getattr(small, k) for k in ("clean", "attacks", "adaptive", "benign")}
    with pytest.raises(ConfigError, match=f"{missing} is empty; a detection figure needs"):
        DetectionReport(**{**parts, missing: ()})
    values = small.to_json()
    values[missing] = []
    with pytest.raises(ConfigError, match="is empty"):
        report_from_json(values)


def test_no_table_without_all_three_kinds(small):
    assert report.detection_table(small.rows()).count("<tr>") == 5
    with pytest.raises(ConfigError, match="a detection table needs attack, adaptive, benign"):
        report.detection_table([r for r in small.rows() if r["kind"] != "benign"])


@pytest.mark.parametrize("figure", [figures.histogram, figures.roc_curves, figures.auc_by_epsilon])
def test_every_detection_figure_shows_the_three_columns_and_can_be_drawn(small, figure):
    value = figure(small)
    assert {t["xaxis"] for t in value["data"]} == {"x", "x2", "x3"}
    said = [a["text"] for a in value["layout"]["annotations"]]
    assert said == ["attacks", "detector-aware attacks", "not attacks"]
    json.dumps(value, allow_nan=False)
    assert drawing.to_png(value).startswith(b"\x89PNG")


def test_roc_and_auc_are_scikit_learns():
    rng = np.random.default_rng(1)
    clean, attacked = rng.normal(0, 1, 90).round(1), rng.normal(1, 1, 70).round(1)  # with ties
    truth, values = [0] * 90 + [1] * 70, np.concatenate([clean, attacked])
    x, y = roc(clean, attacked)
    wanted_x, wanted_y, _ = roc_curve(truth, values)
    assert x.tolist() == wanted_x.tolist() and y.tolist() == wanted_y.tolist()
    whole = DetectionReport(made("c", clean), (made("a", attacked),), (made("b", attacked),), (made("n", clean),))
    assert whole.rows()[1]["auc"] == pytest.approx(roc_auc_score([0] * 70 + [1] * 70, [*clean[:70], *attacked]))
    assert area(*whole.roc(whole.attacks[0])) == pytest.approx(whole.rows()[1]["auc"])
    with pytest.raises(ConfigError, match="one of them is empty"):
        roc([], [1.0])


def test_histogram_shares_sum_to_one(small):
    edges, shares = small.histogram(bins=7)
    assert len(edges) == 8 and edges[0] == 0 and edges[-1] == 9
    assert all(s.sum() == pytest.approx(1) for s in shares.values())
    assert shares["clean"][0] == 0.25  # 1 lies below 9/7


def test_json_round_trip(small):
    back = report_from_json(json.loads(json.dumps(small.to_json(), allow_nan=False)))
    assert back.rows() == small.rows()
    assert back.detectors == small.detectors and back.attacks[0].settings == small.attacks[0].settings
    with pytest.raises(ConfigError, match="not a detection report"):
        report_from_json({"clean": 3})


def test_a_sample_with_other_scores_or_lengths_is_refused():
    with pytest.raises(ConfigError, match="scores are"):
        Sample("x", np.ones(2, bool), {"entropy": np.zeros(2)})
    with pytest.raises(ConfigError, match="finite numbers"):
        made("x", [1.0, math.nan])


class Says(nn.Module):
    """One class, certainly."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, x):
        return 200 * nn.functional.one_hot(torch.full((len(x),), self.label), 3).float()


@pytest.mark.parametrize(
    ("said", "disagreement", "most"),
    [((0, 0), 0, 1), ((0, 1), math.log(2), 0.5), ((0, 1, 2), math.log(3), 1 / 3), ((0,), 0, 1)],
)
def test_scores_of_certain_members_that_agree_and_that_never_do(said, disagreement, most):
    model = Ensemble(ModelConfig("resnet8", len(said), 3, (1, 4, 4)))
    model.members = nn.ModuleList(Says(k) for k in said)
    found = sample("x", outcome(model, torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))).scores
    assert found["disagreement"] == pytest.approx([disagreement] * 2, abs=1e-5)
    assert found["entropy"] == pytest.approx([disagreement] * 2, abs=1e-5)
    assert found["max probability"] == pytest.approx([1 - most] * 2, abs=1e-5)


def test_disagreement_is_the_jensen_shannon_divergence(trained, digits):
    model, x = trained(2), digits.test.pixels()[:10]
    with torch.no_grad():
        p = model.member_logits(x).softmax(-1).double()
    mean = p.mean(0)
    wanted = (p * (p / mean).log()).sum(-1).mean(0)  # mean Kullback-Leibler divergence from the mean
    torch.testing.assert_close(
        outcome(model, x, digits.test.labels[:10]).disagreement.double(), wanted, atol=1e-5, rtol=1e-3
    )


def test_detect_on_a_small_ensemble(trained, digits):
    x, labels = digits.test.pixels()[:8], digits.test.labels[:8]
    held = digits.calibration.pixels()[:40], digits.calibration.labels[:40]
    c = Checkpoint("t", trained(2), "digits", digits.classes, CCE_DM, {}, None)
    ticks = []
    found = detect(
        c, x, labels, [AttackConfig("fgsm", 0.1)], adaptive=2, epsilon=0.1, calibration=held,
        report=lambda what, fraction: ticks.append(fraction),
    )  # fmt: skip
    assert set(found.detectors) == set(SCORES) and found.detectors["disagreement"].images == 40
    aware = sum(info.aware and (info.grid or 0) < 8 for info in ATTACKS.values())
    assert [len(s) for _, s in found.samples()] == [8, *[2] * aware, *[8] * 8]
    for score in SCORES:
        assert all("auc" in r and "flagged" in r for r in found.rows(score)[1:])
    assert ticks == sorted(ticks) and ticks[-1] == 1
    assert detect(c, x, labels, [AttackConfig("fgsm", 0.1)], adaptive=1).detectors == {}
    for wrong, words in (({"adaptive": 0}, "adaptive is 0"), ({"attacks": []}, "attacks is empty")):
        with pytest.raises(ConfigError, match=words):
            detect(c, x, labels, wrong.pop("attacks", [AttackConfig()]), **wrong)
