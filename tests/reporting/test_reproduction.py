"""The paper's cells on ensembles that are here: what is measured, what was, and what cannot be said."""

import dataclasses
import json
import re
import socket
from dataclasses import asdict

import numpy as np
import pytest
import torch

from cce.__main__ import main
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import add_black_box, read_measurement, write_measurement
from cce.config import CCE_DM, CCE_RM, NAT, SCORES, AttackConfig, ConfigError, ModelConfig
from cce.evaluation.detection import DetectionReport, Sample
from cce.evaluation.transferability import BlackBox, Transferability
from cce.models import Ensemble
from cce.paper import printed as paper
from cce.paper.bench import Bench
from cce.paper.cells import (
    AT_RELEASE,
    MEASURED,
    NEEDS_TEST_SET,
    NO_CHECKPOINT,
    NOT_AT_RELEASE,
    NOT_RECORDED,
    SLOW,
    Result,
    built_layers,
    margin,
)
from cce.paper.orders import HOLDS, REVERSED, UNCLEAR, orders
from cce.reporting import figures, report
from cce.reporting.reproduction import reproduce

SUBSETS = {"S11": 0.4, "S10": 0.06, "S01": 0.04, "S00": 0.5}


@pytest.fixture
def offline(monkeypatch):
    """No socket can be made."""

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def released(defense=CCE_RM, metrics=None, training=None) -> Checkpoint:
    """An untrained ResNet-20 x 2 for CIFAR-10 that says of itself what `metrics` say."""
    torch.manual_seed(0)
    model = Ensemble(ModelConfig("resnet20", 2, 10, (3, 32, 32))).eval()
    return Checkpoint("resnet", model, "cifar10", tuple("abcdefghij"), defense, training or {}, None, metrics or {})


def row(name="pgd", step_size=2 / 255, **more):
    settings = {
        "name": name,
        "epsilon": 8 / 255,
        "step_size": step_size,
        "steps": 20,
        "target": "ensemble",
        "decay": 1.0,
    }
    return {**settings, "accuracy": 0.46, "subsets": SUBSETS, **more}


METRICS = {
    "images": 1000,
    "seed": 0,
    "device": "a machine",
    "data": "1,000 images",
    "natural": {"accuracy": 0.8},
    "attacks": [row()],
}


def cells_of(names, found, tmp_path, n=4, **more):
    bench = Bench(found, tmp_path, n, more.get("steps", 1), 1, 0)
    result = reproduce(paper.choose(names), bench)
    return {c.id: c for item in result["items"] for c in item.cells}, result


def test_without_the_test_set_the_release_speaks(tmp_path, offline):
    cells, _ = cells_of(["table3", "table6", "table12a"], [released(metrics=METRICS)], tmp_path)
    natural = cells["table3/natural/CCE-RM2"]
    assert (natural.status, natural.measured, natural.printed, natural.difference) == (AT_RELEASE, 80.0, 84.5, -4.5)
    pgd = cells["table3/PGD k=250/CCE-RM2"]
    assert (pgd.status, pgd.measured, pgd.n, pgd.difference) == (AT_RELEASE, 46.0, 1000, pytest.approx(0.2))
    assert "k = 20 instead of 250" in pgd.differs and "n = 1,000 instead of 10,000" in pgd.differs
    assert pgd.margin == pytest.approx(100 * margin(0.46, 1000), abs=0.01)
    assert cells["table3/BIM k=250/CCE-RM2"].status == NEEDS_TEST_SET
    assert cells["table3/BIM k=250/CCE-RM2"].measured is None
    assert cells["table3/SPSA/CCE-RM2"].status == cells["table3/Auto-Attack/CCE-RM2"].status == NEEDS_TEST_SET
    assert cells["table3/PGD k=250/CCE-RM3"].status == cells["table3/natural/ADP2"].status == NO_CHECKPOINT
    assert cells["table6/CCE-RM/S01"].measured == 4.0
    assert cells["table6/CCE-RM/nT"].measured == pytest.approx(4.0)  # 1 - .46 - .50
    assert cells["table6/CCE-RM/a_single"].measured == pytest.approx(6.0)
    assert cells["table6/CCE-RM/T"].status == cells["table6/CCE-RM/a_1_1"].status == NEEDS_TEST_SET
    assert cells["table12a/CCE-RM/CCE-RM"].measured == 46.0
    assert cells["table12a/NAT/CCE-RM"].status == NO_CHECKPOINT


def test_with_n_0_only_the_release_speaks_and_says_what_it_did_not_measure(tmp_path, offline):
    cells, _ = cells_of(["table3", "table12a"], [released(metrics=METRICS)], tmp_path, n=0)
    assert cells["table3/PGD k=250/CCE-RM2"].status == AT_RELEASE
    assert cells["table3/BIM k=250/CCE-RM2"].status == cells["table3/SPSA/CCE-RM2"].status == NOT_AT_RELEASE


def test_a_slow_attack_at_release_has_its_own_n_and_fits_whatever_steps_it_does_not_read(tmp_path, offline):
    auto = {**row("autoattack", steps=7), "accuracy": 0.2, "images": 500}
    cells, _ = cells_of(["table3"], [released(metrics={**METRICS, "attacks": [row(), auto]})], tmp_path)
    cell = cells["table3/Auto-Attack/CCE-RM2"]
    assert (cell.status, cell.measured, cell.n) == (AT_RELEASE, 20.0, 500)
    assert cell.differs == ["n = 500 instead of 1,000"]


def test_a_row_measured_later_says_where(tmp_path, offline):
    source = {"data": "100 images", "device": "another machine", "command": "evaluate --add"}
    source["search_precision"] = "bfloat16"
    later = {"attack": row("spsa", steps=50), "name": "SPSA", "accuracy": 0.3, "images": 100, "source": source}
    del later["attack"]["accuracy"], later["attack"]["subsets"]
    cells, _ = cells_of(["table3"], [released(metrics={**METRICS, "slow": [later]})], tmp_path)
    cell = cells["table3/SPSA/CCE-RM2"]
    assert (cell.status, cell.measured, cell.n) == (AT_RELEASE, 30.0, 100)
    assert "on 100 images, seed 0, another machine, searched for in bfloat16" in cell.note
    assert "on 1,000 images, seed 0, a machine" in cells["table3/PGD k=250/CCE-RM2"].note


def test_slow_attacks_are_run_only_when_asked_for(tmp_path, monkeypatch):
    c = released()
    bench = Bench([c], tmp_path, 2, 1, 1, 0)
    monkeypatch.setattr(bench, "images", lambda c: (torch.rand(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)))
    result = reproduce(paper.choose(["table3"]), bench)
    cells = {c.id: c for item in result["items"] for c in item.cells}
    assert cells["table3/SPSA/CCE-RM2"].status == SLOW
    assert cells["table3/PGD k=250/CCE-RM2"].status == MEASURED


def test_what_transfer_wrote_fills_tables_6_and_12(tmp_path, offline):
    c = released()
    c.folder = tmp_path
    attack = AttackConfig("pgd", 8 / 255, 2 / 255, 20)
    t = Transferability(2, 50, attack, (1, 1, 1), ((0.5, 0.6, 0.55), (0.7, 0.4, 0.5), (0.5, 0.5, 0.45)), SUBSETS)
    told = {"data": "50 pictures", "device": "a machine", "n": 50}
    write_measurement(c, "transferability", {**told, "transferability": t.to_json()})
    nat = dataclasses.replace(c, id="natural", defense=NAT)
    box = BlackBox(("natural", "resnet"), 50, attack, (0.9, 0.8), ((0.0, 0.74), (0.6, 0.46)))
    add_black_box(c, {**told, "black_box": box.to_json()})
    cells, _ = cells_of(["table6", "table12a", "table12b"], [c, nat], tmp_path, n=0)
    found = cells["table6/CCE-RM/T"]
    assert (found.status, found.measured, found.n) == (AT_RELEASE, pytest.approx(40.0), 50)  # .1 + .3
    found = cells["table12a/NAT/CCE-RM"]
    assert (found.status, found.measured, found.n) == (AT_RELEASE, 74.0, 50) and "50 pictures" in found.note
    assert cells["table12a/CCE-RM/CCE-RM"].measured == 46.0  # its own example, and no card says it
    assert cells["table12b/NAT/CCE-RM"].status == NOT_AT_RELEASE  # epsilon 12/255


def test_a_black_box_record_takes_the_place_of_those_of_the_same_attack_and_no_other_ensembles(tmp_path):
    c = released()
    c.folder = tmp_path
    small, large = (AttackConfig("pgd", epsilon, 2 / 255, 20) for epsilon in (8 / 255, 12 / 255))

    def first_values_after(*added):
        for attack, names, value in added:
            table = tuple(tuple(value for _ in names) for _ in names)
            box = BlackBox(tuple(names), 5, attack, (1,) * len(names), table)
            add_black_box(c, {"data": "x", "n": 5, "black_box": box.to_json()})
        return [r["black_box"]["a"][0][0] for r in read_measurement(c, "black-box")["records"]]

    assert first_values_after((small, "ab", 0.1), (large, "ab", 0.2), (small, "ab", 0.3)) == [0.2, 0.3]
    assert first_values_after((small, "bc", 0.4)) == [0.2, 0.3, 0.4]  # b and a are told of by 0.3 alone
    assert first_values_after((small, "cab", 0.5)) == [0.2, 0.5]


def result_of(row, column, printed, measured, attack, checkpoint, n=1000):
    return Result("", row, column, printed, AT_RELEASE, measured, 2.0, checkpoint, attack, n)


def test_orders_are_told_only_for_the_same_attack_and_beyond_the_margin():
    item = paper.choose(["table3"])[0]
    results = [
        result_of("PGD", "CCE-RM2", 45.8, 40.0, "PGD k=20", "rm"),
        result_of("PGD", "ADV-EN2", 42.8, 44.0, "PGD k=20", "en"),
        result_of("PGD", "ADP2", 44.2, 39.0, "PGD k=20", "adp"),
        result_of("PGD", "ADV1", 41.4, 30.0, "PGD k=50", "adv"),
        result_of("BIM", "CCE-RM2", 45.8, 40.0, "BIM k=20", "rm"),
    ]
    found = {(o.first, o.second): o for o in orders([(item, results)])}
    assert {pair: o.verdict for pair, o in found.items()} == {
        ("CCE-RM2", "ADV-EN2"): REVERSED,  # 40 < 44, margin 2.83
        ("ADP2", "ADV-EN2"): REVERSED,
        ("CCE-RM2", "ADP2"): UNCLEAR,
    }
    assert "the order does not hold" in found["CCE-RM2", "ADV-EN2"].describe()
    assert "within its margin of 2.8" in found["CCE-RM2", "ADP2"].describe()
    swapped = [dataclasses.replace(r, measured=r.printed) for r in results]
    assert {o.verdict for o in orders([(item, swapped)])} == {HOLDS, UNCLEAR}


def test_an_auc_at_release_needs_its_adaptive_and_benign_columns(tmp_path, offline):
    attacks = [row(step_size=1 / 255, auc=0.9)]
    cells, _ = cells_of(["figure3"], [released(CCE_DM, {**METRICS, "attacks": attacks})], tmp_path)
    assert cells["figure3/PGD k=20/AUC"].status == NEEDS_TEST_SET
    beside = [{"name": "x", "accuracy": 0.5, "auc": 0.4}]
    whole = {**METRICS, "attacks": attacks, "adaptive": beside, "benign_corruptions": beside}
    cells, result = cells_of(["figure3"], [released(CCE_DM, whole)], tmp_path)
    assert (cells["figure3/PGD k=20/AUC"].status, cells["figure3/PGD k=20/AUC"].measured) == (AT_RELEASE, 90.0)
    assert {r["kind"] for r in result["items"][0].detection} == {"attack", "adaptive", "benign"}
    assert "detector-aware attacks" in report.reproduction(result)


def test_an_auc_that_was_added_later_stands_beside_a_shipped_report_that_lacks_it(tmp_path, offline):
    values = np.arange(4.0)
    fine = AttackConfig("pgd", 8 / 255, 1 / 255, 20)
    clean, other = (Sample(name, values > 2, dict.fromkeys(SCORES, values), {}) for name in ("clean", "other"))
    attacked = dataclasses.replace(other, settings=asdict(fine))
    shipped = DetectionReport(clean, (attacked,), (other,), (other,))
    config = asdict(dataclasses.replace(fine, epsilon=12 / 255))
    source = {"data": "100 images", "device": "another machine"}
    later = {"attack": config, "name": "PGD", "accuracy": 0.1, "auc": 0.7, "images": 100, "source": source}
    beside = [{"name": "x", "accuracy": 0.5, "auc": 0.4}]
    c = released(CCE_DM, {**METRICS, "slow": [later], "adaptive": beside, "benign_corruptions": beside})
    c.folder = tmp_path
    write_measurement(c, "detection", {"report": shipped.to_json(), "data": "4 images"})
    cells, _ = cells_of(["figure4"], [c], tmp_path, n=0)
    assert (cells["figure4/eps=8/255/AUC"].measured, cells["figure4/eps=8/255/AUC"].n) == (50.0, 4)
    added = cells["figure4/eps=12/255/AUC"]
    assert (added.status, added.measured, added.n) == (AT_RELEASE, 70.0, 100)
    assert "on 100 images, seed 0, another machine" in added.note
    assert cells["figure4/eps=20/255/AUC"].status == NOT_AT_RELEASE


def test_training_time_is_that_of_the_record(tmp_path, offline):
    record = {"seconds": 300.0, "images_seen": 100_000, "machine": "a machine"}
    cells, _ = cells_of(["table9"], [released(training=record)], tmp_path)
    assert (cells["table9/CCE/N=2"].measured, cells["table9/CCE/N=2"].difference) == (150.0, -206.0)
    cells, _ = cells_of(["table9"], [released()], tmp_path)
    assert cells["table9/CCE/N=2"].status == NOT_RECORDED


def test_a_picture_that_ships_is_enough_for_a_prediction_example(tmp_path, offline):
    cells, result = cells_of(["figure1"], [released(CCE_DM)], tmp_path)
    cell = cells["figure1/prediction/CCE-DM"]
    assert (cell.status, cell.n) == (MEASURED, 1) and "test picture" in cell.note
    assert "k = 1 instead of 20" in cell.differs
    assert len(result["items"][0].figures) == 1


def test_table_8_is_what_is_built_here():
    assert all(built_layers(k) == layers for k, layers in paper.LAYERS.items())


def test_an_ensemble_that_the_paper_lacks_is_measured_without_a_printed_number(tmp_path, trained, digits, offline):
    pair = [Checkpoint(name, trained(2), "digits", digits.classes, CCE_RM, {}) for name in ("one", "two")]
    _, result = cells_of(["table3", "table6", "table12a"], pair, tmp_path, n=10)
    assert result["counts"][NO_CHECKPOINT] == 56 + 40 + 16
    one, two, box = result["others"]
    assert all(c.printed is None and c.difference is None for item in result["others"] for c in item.cells)
    cells = {c.row: c for c in one.cells}
    assert cells["natural"].status == MEASURED and cells["natural"].n == 10
    subsets = [c.measured for c in one.cells if re.search(r"S\d\d$", c.row)]
    assert sum(subsets) == pytest.approx(100, abs=0.01)
    assert [c.measured for c in one.cells] == [c.measured for c in two.cells]
    assert len(box.cells) == 4 and len({c.measured for c in box.cells}) == 1  # twins
    assert cells["Table 6: a_en_en"].measured == box.cells[0].measured


@pytest.mark.parametrize(
    ("more", "words"),
    [({"n": -1}, "--n is -1"), ({"steps": -1}, "--steps is -1"), ({"twice": True}, "two checkpoints")],
)
def test_bad_settings_are_said_in_words(more, words, tmp_path):
    c = released()
    found = [c, c] if more.pop("twice", False) else [c]
    with pytest.raises(ConfigError, match=words):
        cells_of(["table3"], found, tmp_path, **more)


def test_margin_is_wilsons():
    """n = 10, p = 0: from 0 to .2775, so half is .1388 (a common table's value)."""
    assert margin(0, 10) == pytest.approx(0.2775 / 2, abs=1e-3)


def test_reproduce_all_on_the_bundled_digits_runs_offline_and_the_page_needs_no_network(tmp_path, offline, capsys):
    digits = [str(p) for p in checkpoints.released() if p.name.startswith("digits")]
    if not digits:
        pytest.skip("no digits ensemble is bundled")
    out = tmp_path / "report.html"
    arguments = ["reproduce", "all", "--checkpoints", digits[0], "--data", str(tmp_path), "--out", str(out)]
    assert main([*arguments, "--n", "3", "--steps", "1", "--adaptive", "1", "--device", "cpu"]) == 0
    assert "no checkpoint for this cell" in capsys.readouterr().out
    record = json.loads((tmp_path / "report.json").read_text())
    assert [i["id"] for i in record["items"]] == [i.id for i in paper.items()]
    cells = [c for item in record["items"] for c in item["cells"]]
    assert len(cells) == 512 and sum(record["counts"].values()) == 512
    assert all(c["measured"] is None for c in cells if c["status"] not in (MEASURED, AT_RELEASE))
    (other,) = record["others"]
    assert {r["kind"] for r in other["detection"]} == {"clean", "attack", "adaptive", "benign"}
    page = out.read_text()
    from plotly.offline import get_plotlyjs

    assert get_plotlyjs() in page
    rest = page.replace(get_plotlyjs(), "")
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", rest) and "@import" not in rest and "<link" not in rest
    drawn = re.findall(r'<script type="application/json" id="(figure-[^"]+)">(.*?)</script>', rest, re.S)
    assert len(drawn) >= 6
    for name, values in drawn:
        assert f'data-figure="{name}"' in rest
        assert {"data", "layout"} == set(json.loads(values))


def test_a_script_cannot_be_ended_by_a_name():
    figure = figures.matrix([[1.0]], ["</script><b>"], "<i>", "x", "y")
    page = report.page("<t>", [report._figure(figure, 0)])
    assert "</script><b>" not in page and "<title>&lt;t&gt;" in page


def test_the_attack_of_a_cell_is_capped():
    bench = Bench([], None, 1, 7, 1, 0)
    assert bench.capped(AttackConfig(steps=20)).steps == 7
    assert Bench([], None, 1, 0, 1, 0).capped(AttackConfig(steps=250)).steps == 250
