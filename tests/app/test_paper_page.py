"""The Paper tab: its cells come from what ships with the ensembles, and the method page from the library's loss."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax

from app.figures import method as method_page
from app.figures import paper_tables
from app.services import method
from app.services import paper as service
from app.services.models import Registry
from app.services.trade import trades
from app.studio import Studio
from cce.attacks import gradient as attacks
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.config import CCE_DM, CCE_RM, ModelConfig
from cce.data.datasets import CLASS_NAMES
from cce.models import Ensemble
from cce.paper import printed as paper
from cce.paper.cells import AT_RELEASE, NO_CHECKPOINT, NOT_AT_RELEASE
from cce.paper.orders import UNCLEAR

PGD = {"name": "pgd", "epsilon": 8 / 255, "step_size": 2 / 255, "steps": 20, "target": "ensemble", "decay": 1.0}
SUBSETS = {"S11": 0.4, "S10": 0.06, "S01": 0.04, "S00": 0.5}


def metrics(accuracy: float) -> dict:
    row = {**PGD, "accuracy": accuracy, "subsets": SUBSETS, "auc": 0.97, "flagged": 0.9, "wrong_and_unflagged": 0.1}
    aware = {"name": "agreeing members", "accuracy": 0.0, "auc": 0.2, "wrong_and_unflagged": 0.99, "images": 200}
    noise = {"name": "random signs", "accuracy": 0.7, "auc": 0.9, "flagged": 0.71}
    return {
        **{"images": 1000, "seed": 0, "device": "a machine", "data": "1,000 images"},
        **{"natural": {"accuracy": 0.8}, "attacks": [row], "adaptive": [aware], "benign_corruptions": [noise]},
    }


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """Two untrained CIFAR-10 ensembles that say of themselves what `metrics` says."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, defense, accuracy in (("rm", CCE_RM, 0.46), ("dm", CCE_DM, 0.02)):
        model = Ensemble(ModelConfig("resnet20", 2, 10, (3, 32, 32))).eval()
        made = Checkpoint(name, model, "cifar10", CLASS_NAMES["cifar10"], defense, {})
        checkpoints.save(made, folder / name)
        (folder / name / "metrics.json").write_text(json.dumps(metrics(accuracy)))
    return Studio(Registry([folder], "cpu"), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def page(studio: Studio) -> service.Page:
    return service.page(studio)


def test_every_cell_of_the_asked_for_tables_is_there_with_a_number_or_a_reason(page: service.Page):
    assert [item.id for item, _ in page.tables] == [
        *("table3", "table4", "table5", "table6", "table7", "table9", "table10a", "table10b", "table11a", "table11b"),
        *("table12a", "table12b", "table13a", "table13b"),
    ]
    results = [r for _, results in page.tables for r in results]
    printed = [c for item in paper.choose(service.TABLES) for c in item.cells]
    assert [r.id for r in results] == [c.id for c in printed] and len(results) == 490
    assert all((r.measured is not None) == (r.status == AT_RELEASE) for r in results)
    cells = {r.id: r for r in results}
    assert cells["table3/PGD k=250/CCE-RM2"].measured == pytest.approx(46.0)
    assert cells["table3/SPSA/CCE-RM2"].status == NOT_AT_RELEASE
    assert cells["table3/natural/ADP2"].status == NO_CHECKPOINT
    assert service.counts(results) == {s: sum(r.status == s for r in results) for s in {r.status: 0 for r in results}}


def test_no_attack_is_run(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an attack was run")

    monkeypatch.setattr(service, "_kept", [None, None, None])
    monkeypatch.setattr("cce.paper.bench.attack_in_parts", refuse)
    monkeypatch.setattr("cce.paper.bench.outcome", refuse)
    monkeypatch.setattr(attacks, "attack", refuse)
    assert service.page(studio).tables


def test_the_page_is_made_once_until_something_changes(studio: Studio, page: service.Page):
    again = service.page(studio)
    assert service.page(studio) is again
    folder = studio.registry.get("rm").folder / "measurements"
    folder.mkdir()
    (folder / "black-box.json").write_text(json.dumps({"records": []}))
    assert service.page(studio) is not again


def test_an_ensemble_of_ones_own_data_is_no_part_of_the_paper(studio: Studio):
    folder = studio.registry.get("rm").folder.parent / "pets"
    model = Ensemble(ModelConfig("resnet8", 2, 3, (3, 32, 32))).eval()
    checkpoints.save(Checkpoint("pets", model, "pets", ("cat", "dog", "emu"), CCE_RM, {}), folder)
    try:
        assert "pets" in [entry.id for entry in studio.registry.entries()]
        assert sorted(service.page(studio).ensembles) == ["dm", "rm"]
    finally:
        shutil.rmtree(folder)


def test_a_damaged_measurement_is_no_number_and_no_failure(studio: Studio):
    folder = studio.registry.get("rm").folder / "measurements"
    folder.mkdir(exist_ok=True)
    (folder / "transferability.json").write_text("{")
    try:
        cells = {r.id: r for _, results in service.page(studio).tables for r in results}
    finally:
        (folder / "transferability.json").unlink()
    assert cells["table6/CCE-RM/T"].measured is None and "cannot be read" in cells["table6/CCE-RM/T"].note
    assert cells["table3/natural/CCE-RM2"].measured == 80.0


def test_tables_show_both_numbers_the_difference_and_what_differs(page: service.Page):
    found = {item.id: paper_tables.item(item, results, service.counts(results)) for item, results in page.tables}
    shown = found["table3"]
    assert re.search(r'printed </span>45\.8</span><b class="ours"><span class="sr">measured </span>46\.0</b>', shown)
    assert "+0.2" in shown and "−4.5" in shown and "k = 20 instead of 250" in shown and "46.0 ± 3.1" in shown
    assert "n = 1,000 instead of 10,000" in shown and "48 no checkpoint for this cell" in shown
    assert " open>" in shown and " open>" not in found["table5"] and "nothing measured" in found["table5"]


def test_an_equal_pair_is_too_small_to_tell(page: service.Page):
    (order,) = [o for o in page.orders if o.item == "Table 7"]
    assert (order.first, order.second, order.verdict) == ("CCE-DM", "CCE-RM", UNCLEAR)
    shown = paper_tables.order_list(page.orders)
    close = sum(o.verdict == UNCLEAR for o in page.orders)
    assert f"The {close} whose difference is within the margin</summary>" in shown
    assert shown.count("≈ within the margin") == close and "✓ holds" not in shown.partition("<details")[2]
    assert "no printed order can be checked" in paper_tables.order_list([]).replace("\n", " ")


def test_an_auc_never_stands_without_the_attacker_who_knows(page: service.Page):
    assert list(page.detection) == ["dm"]
    (line,) = paper_tables.limits(page.detection)
    assert "AUC 0.970" in line and "wrong and unflagged on 99.0 % of 200 pictures (AUC 0.200)" in line
    assert "random signs, which attacks nothing, is flagged on 71.0 %" in line
    only = {"dm": [r for r in page.detection["dm"] if r["kind"] == "attack"]}
    assert paper_tables.limits(only) == []


# Eq. 5


@pytest.mark.parametrize(
    ("defense", "wanted"),
    [(CCE_RM, (0.139, 0.135, 0.038)), (CCE_DM, (0.458, -0.573, -0.046))],
)
def test_the_push_on_the_true_class(defense, wanted):
    """Descent on its logit at f_y = .05, .50, .95: worked out by hand from dC/dz and dH/dz = -p (ln p + H)."""
    found = [method.push(f_y, defense).descent[0] for f_y in (0.05, 0.5, 0.95)]
    assert found == pytest.approx(wanted, abs=6e-4)


def test_the_terms_by_hand():
    at = method.push(0.5, CCE_RM, share=1.0)  # (1/2, 1/2, 0, ...): C = H = ln 2
    ln2 = 0.693147
    assert (at.cross_entropy, at.promoting) == pytest.approx((ln2, ln2 / 2), abs=1e-5)
    assert sum(at.descent) == pytest.approx(0, abs=1e-9)
    assert at.total == at.promoting + at.demoting


def test_the_released_reading_lowers_the_true_class_as_the_page_says():
    """Softmax twice, and the gradient flows through w (released robustness mode)."""
    for f_y in (0.05, 0.5, 0.95):
        z = torch.tensor(method.prediction(f_y), dtype=torch.float64).log().requires_grad_(True)
        p = z.softmax(0)
        twice = log_softmax(p, 0)
        loss = p[0] * -twice[0] - (1 - p[0]) * -(p * twice).sum()
        (gradient,) = torch.autograd.grad(loss, z)
        assert -gradient[0] < 0


def test_the_method_page_holds_the_numbers_of_the_loss():
    shown = method_page.page()
    assert "+0.458" in shown and "−0.573" in shown
    assert f"{method.push(0.25, CCE_RM).descent[0]:+.3f}" in shown
    assert shown.count('type="range"') == 2 and shown.count('type="radio"') == 2


def test_the_script_and_the_style_ship_with_the_page():
    static = Path(paper_tables.__file__).parents[1] / "static"
    assert "cceMethod" in (static / "method.js").read_text() and ".studio-paper" in (static / "paper.css").read_text()


def test_recipes_for_detection_stand_side_by_side(tmp_path: Path):
    model = Ensemble(ModelConfig("resnet20", 2, 10, (3, 32, 32))).eval()
    plain, hardened = metrics(0.02), metrics(0.02)
    hardened["adaptive"][0] |= {"wrong_and_unflagged": 0.4, "images": 100}
    hardened["natural"] |= {"wrong_and_unflagged": 0.1}  # the other has none: left out
    hardened["attacks"][0]["auc"] = plain["attacks"][0]["auc"] = 0.987
    made = [
        Checkpoint(name, model, "cifar10", CLASS_NAMES["cifar10"], defense, {}, metrics=found)
        for name, defense, found in (("dm", CCE_DM, plain), ("rm", CCE_RM, plain), ("dm-hardened", CCE_DM, hardened))
    ]
    (one,) = trades(made)
    assert one.names == ("dm", "dm-hardened")
    rows = {(row.group, row.name): row for row in one.rows}
    assert ("Clean pictures", "wrong and unflagged") not in rows
    assert rows["Clean pictures", "right"].values == (0.8, 0.8) and rows["Clean pictures", "right"].best is None
    aware = rows["Detector-aware attacks: wrong and unflagged", "agreeing members"]
    assert aware.values == (0.99, 0.4) and aware.best == 1 and aware.images == (200, 100)
    assert rows["Benign changes: flagged", "random signs"].best is None
    shown = paper_tables.trade(one)
    assert "n = 200 and 100" in shown and shown.count("★</span>") == 1
    assert re.search(r"<b>40.0\s?% <span", shown) and "<td>99.0" in shown
    assert trades(made[:2]) == []
    assert one.short == ("", ("dm", "dm-hardened"))  # nothing is left of the first without its only part
    named = replace(one, names=("cifar10-resnet20-cce-dm", "cifar10-resnet20-cce-dm-long"))
    assert named.short == ("cifar10-resnet20-", ("cce-dm", "cce-dm-long"))
    assert '<th scope="col">cce-dm-long</th>' in paper_tables.trade(named)
    assert replace(one, names=("cifar10-a-b", "mnist-a-b")).short == ("", ("cifar10-a-b", "mnist-a-b"))
