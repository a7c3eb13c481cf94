"""The row of an ensemble in lists: no detection figure without what stands beside it."""

import pytest

from cce.checkpoints.folder import Checkpoint
from cce.cli.models import detection
from cce.config import CCE_DM
from cce.evaluation.presets import summary

ATTACKS = [{"name": "pgd", "accuracy": 0.4, "auc": 0.9}, {"name": "bim", "accuracy": 0.3, "auc": 0.8}]
AWARE = [{"name": "agreeing", "wrong_and_unflagged": 0.2}, {"name": "smooth", "wrong_and_unflagged": 0.7}]
BENIGN = [{"name": "JPEG", "flagged": 0.05}, {"name": "random signs", "flagged": 0.99}]
WHOLE = {"natural": {"accuracy": 0.8}, "attacks": ATTACKS, "adaptive": AWARE, "benign_corruptions": BENIGN}


@pytest.fixture
def made(fresh):
    return lambda metrics: Checkpoint("x", fresh(2), "digits", tuple("0123456789"), CCE_DM, {}, None, metrics)


def test_the_auc_of_the_first_attack_with_the_worst_of_what_belongs_beside_it(made):
    row = summary(made(WHOLE))
    assert (row["natural_accuracy"], row["robust_accuracy"]) == (0.8, 0.4)
    assert (row["detection_auc"], row["wrong_and_unflagged"], row["benign_flagged"]) == (0.9, 0.7, 0.99)
    words = detection(made(WHOLE))
    assert words.startswith(
        "detection AUC 0.9000 (detector-aware 70.0 % wrong and unflagged, benign corruptions 99.0 %"
    )


@pytest.mark.parametrize("missing", ["adaptive", "benign_corruptions", "attacks", "natural"])
def test_without_any_of_them_there_is_no_auc(made, missing):
    metrics = {k: v for k, v in WHOLE.items() if k != missing}
    row = summary(made(metrics))
    wanted = (0.9, 0.7, 0.99) if missing == "natural" else (None, None, None)
    assert (row["detection_auc"], row["wrong_and_unflagged"], row["benign_flagged"]) == wanted
    assert (detection(made(metrics)) == "detection n/a") == (missing != "natural")


def test_nothing_measured(made):
    assert {k for k, v in summary(made({})).items() if v is None} == {
        *("natural_accuracy", "robust_accuracy", "detection_auc", "wrong_and_unflagged", "benign_flagged"),
        "threshold",
    }
