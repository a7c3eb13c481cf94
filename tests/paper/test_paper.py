import dataclasses

import pytest
import torch

from cce.checkpoints.folder import Checkpoint
from cce.checkpoints.measurements import EQUAL_TERMS, write_measurement
from cce.config import CCE_BASE, CCE_DM, CCE_RM, AttackConfig, ConfigError, Defense, ModelConfig
from cce.models import Ensemble
from cce.paper import printed as paper
from cce.paper.printed import Wanted, choose, differences, find, items, printed

CELLS = [c for item in items() for c in item.cells]


def test_every_printed_number_is_in_one_cell():
    numbers = [
        (t, r, c, v) for t, table in printed().items() for r, row in table["rows"].items() for c, v in row.items()
    ]
    assert len(numbers) == 491
    cells = {(c.item, c.row, c.column): c.printed for c in CELLS}
    assert len(cells) == len(CELLS) == len({c.id for c in CELLS})
    assert all(cells[t, r, c] == v for t, r, c, v in numbers)
    assert sum(isinstance(c.printed, float) for c in CELLS) == len(numbers)


def test_some_cells_by_hand():
    by_id = {c.id: c for c in CELLS}
    cell = by_id["table3/PGD k=250/CCE-RM3"]
    assert (cell.printed, cell.attack.steps, cell.wanted) == (48.6, 250, Wanted("cifar10", "resnet20", 3, "CCE-RM"))
    assert cell.attack.epsilon == 8 / 255 and cell.attack.step_size == 2 / 255
    assert by_id["table5/MIM k=100/ADV1"].wanted == Wanted("cifar100", "cnn-cifar100", 1, "ADV-EN")
    assert by_id["table5/MIM k=100/ADV1"].attack.epsilon == 0.01
    assert by_id["table3/SPSA/ADP2"].attack.name == "spsa" and by_id["table3/SPSA/ADP2"].images == 1000
    assert by_id["table5/mul-BIM k=20/ADP2"].attack == AttackConfig("mt-bim", 0.01, 0.001, 20)
    assert by_id["table3/B&B (wPGD2)/ADP2"].attack.epsilon == 16 / 255
    assert by_id["table4/Auto-Attack/CCE-RM3"].attack.name == "autoattack"
    assert by_id["table11a/natural/5"].wanted.defense == "CCE-DM"
    assert by_id["table11b/natural/0"].wanted.defense == "CCE-Base"
    assert by_id["table12b/NAT/CCE-RM"].printed == 74.0 and by_id["table12b/NAT/CCE-RM"].source.defense == "NAT"
    assert by_id["figure4/eps=1/255/AUC"].printed == 93.4
    assert by_id["figure4/eps=24/255/AUC"].printed is None


def test_every_table_and_figure_that_can_be_asked_for_is_there():
    names = [f"table{i}" for i in range(3, 14)] + [f"figure{i}" for i in range(1, 9)]
    assert {i.id.rstrip("ab") for i in choose(names)} == set(names)
    assert choose(["all"]) == list(items()) == choose([*names])
    assert [i.name for i in choose(["Table 10", "table10a"])] == ["Table 10a", "Table 10b"]
    for wrong in ("table2", "table14", "figure9", "table3a", "tabl"):
        with pytest.raises(ConfigError, match="is not in the paper; there is table3, table4"):
            choose([wrong])


def checkpoint(
    name: str, defense: Defense, architecture="resnet20", members=2, dataset="cifar10", training=None
) -> Checkpoint:
    with torch.device("meta"):
        model = Ensemble(ModelConfig(architecture, members, 10, (3, 32, 32)))
    return Checkpoint(name, model, dataset, tuple("0123456789"), defense, training or {})


def test_find_takes_data_set_members_defense_and_architecture():
    there = [
        checkpoint("three", CCE_RM, members=3),
        checkpoint("dm", CCE_DM),
        checkpoint("resnet", CCE_RM),
        checkpoint("cnn", CCE_RM, "cnn-cifar10"),
    ]
    assert find(Wanted("cifar10", "resnet20", 2, "CCE-RM"), there).id == "resnet"
    assert find(Wanted("cifar10", None, 2, "CCE-RM", "cnn-cifar10"), there).id == "cnn"
    assert find(Wanted("cifar10", None, 2, "CCE-RM", "cnn-cifar10"), there[:3]).id == "resnet"
    assert find(Wanted("cifar100", None, 2, "CCE-RM"), there) is None
    assert find(Wanted("cifar10", "resnet20", 2, CCE_BASE.name), there) is None


def made_in(epochs):
    """A training record of so many epochs."""
    return {"config": {"phases": [{"epochs": epochs}], "batch_size": 64, "optimizer": "adam", "train_images": 0}}


def test_of_several_that_fit_a_cell_the_measured_and_the_longest_trained_one_is_taken():
    def trained(name, epochs, metrics):
        return dataclasses.replace(checkpoint(name, CCE_RM, training=made_in(epochs)), metrics=metrics)

    wanted = Wanted("cifar10", "resnet20", 2, "CCE-RM")
    there = [trained("short", 6, {"images": 1}), trained("unmeasured", 180, {}), trained("long", 60, {"images": 1})]
    assert find(wanted, there).id == "long"
    assert find(wanted, there[:2]).id == "short"


def test_what_was_measured_beside_other_losses_comes_before_what_was_trained_longer_alone(tmp_path):
    there = [
        dataclasses.replace(checkpoint(name, CCE_RM, training=made_in(epochs)), folder=tmp_path / name)
        for name, epochs in (("long", 24), ("compared", 13))
    ]
    for c in there:
        c.folder.mkdir()
    wanted = Wanted("cifar10", "resnet20", 2, "CCE-RM")
    assert find(wanted, there).id == "long"
    write_measurement(there[1], EQUAL_TERMS, {})
    assert find(wanted, there).id == "compared"
    (tmp_path / "compared" / "measurements" / f"{EQUAL_TERMS}.json").write_text("{half")
    assert find(wanted, there).id == "compared"  # a damaged file hides no other cell


def test_the_papers_kind_of_training_attack_comes_before_a_hardened_recipe():
    def trained(name, epochs, **attack):
        phases = [{"epochs": epochs, "attack": {"steps": [10, 10], **attack}}]
        config = {"phases": phases, "batch_size": 128, "optimizer": "adam", "train_images": 0}
        return checkpoint(name, CCE_DM, training={"config": config})

    wanted = Wanted("cifar10", "resnet20", 2, "CCE-DM")
    there = [trained("hardened", 180, smooth=0.5), trained("noisy", 180, noise=0.5), trained("plain", 13)]
    assert find(wanted, there).id == "plain"
    assert "trained on smooth attacks and noisy pictures too" in differences(wanted, there[0])
    assert not [d for d in differences(wanted, there[2]) if "smooth" in d]


def test_differences_name_what_was_trained_otherwise():
    config = {"phases": [{"epochs": 6}, {"epochs": 2.5}], "batch_size": 128, "optimizer": "adam", "train_images": 0}
    c = checkpoint("fast", CCE_RM, training={"config": config})
    assert differences(Wanted("cifar10", "resnet20", 2, "CCE-RM"), c) == [
        "trained with 8.5 epochs instead of 180",
        "trained with batch 128 instead of 64",
        "trained in 2 phases",
    ]
    same = {"phases": [{"epochs": 180}], "batch_size": 64, "optimizer": "adam", "train_images": 0}
    paper_like = dataclasses.replace(c, training={"config": same})
    assert differences(Wanted("cifar10", "resnet20", 2, "CCE-RM"), paper_like) == []
    assert "does not state" in differences(Wanted("cifar10", None, 2, "CCE-RM"), paper_like)[0]


def test_the_data_ships_as_a_file_of_the_package():
    from importlib.resources import files

    assert files("cce.paper").joinpath("paper_tables.json").is_file()
    assert paper.printed()["table9"]["unit"] == "seconds"
