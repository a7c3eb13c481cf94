"""A defense of each kind on digits, trained here in seconds; and the paper's order on the released ones.

CCE-Base is CCE-RM with less of the same loss, and ADV-EN is ADV with a second member: `test_training_step` lowers the
loss of each.
"""

import pytest

from cce.attacks.gradient import attack
from cce.checkpoints import folder as checkpoints
from cce.config import NAT, AttackConfig, ModelConfig, Phase, TrainConfig, TrainingAttack, default_attack
from cce.config.recipes import SEVEN, detection_phases
from cce.data.datasets import load
from cce.evaluation.outcomes import outcome
from cce.training.run_folder import RunFolder
from cce.training.trainer import Trainer

EPSILON = 0.15


def phases_of(name: str) -> tuple[Phase, ...]:
    """Three epochs: a natural start, then the defense."""
    if name == "nat":
        return (Phase("NAT", 3, NAT, learning_rate=4e-3, schedule="one-cycle"),)
    if name == "cce-dm":
        return detection_phases(EPSILON, (1.5, 0.5, 1), (4e-3, 2e-3, 2e-3))
    easy = TrainingAttack((2, 2), (EPSILON, EPSILON), (2.0, 2.0))
    start = Phase("natural", 1.5, NAT, learning_rate=4e-3, schedule="one-cycle")
    return (start, Phase(name, 1.5, SEVEN[name], easy, 4e-3, "one-cycle"))


@pytest.fixture(scope="module")
def figures(digits, tmp_path_factory):
    """Trains a defense once: natural and robust accuracy, and the last line of its log."""
    found = {}

    def of(name):
        if name not in found:
            model = ModelConfig("resnet8", 1 if name == "adv" else 2, 10, (1, 8, 8))
            settings = {"batch_size": 48, "flip": False, "precision": "float32", "evaluate_every": 100.0}
            config = TrainConfig("digits", model, phases_of(name), evaluate_images=60, **settings)
            folder = RunFolder(tmp_path_factory.mktemp("runs") / name)
            folder.create({})
            trainer = Trainer(config, digits, folder)
            assert trainer.fit(quiet=True) == "finished"
            trainer.model.eval()
            x, labels = digits.test.pixels()[:200], digits.test.labels[:200]
            examples = attack(trainer.model, x, labels, AttackConfig("pgd", EPSILON, EPSILON / 4, 10))
            row = [r for r in folder.metrics() if r["kind"] == "training"][-1]
            natural = outcome(trainer.model, x, labels).accuracy
            found[name] = (natural, outcome(trainer.model, examples, labels).accuracy, row)
        return found[name]

    return of


@pytest.mark.parametrize("name", [name for name in SEVEN if name not in ("cce-base", "adv-en")])
def test_every_defense_learns(name, figures):
    natural, robust, row = figures(name)
    assert natural > 0.8
    assert (row["direct"] > 0) == (name != "nat")
    assert (row["promoting"] > 0) == (name in ("cce-rm", "cce-dm"))
    assert (row["ensemble_entropy"] > 0) == (name == "adp")
    if name == "nat":
        assert robust < 0.1
    else:
        assert robust > figures("nat")[1] + 0.1


def test_the_released_ones_are_in_the_papers_order():
    """DM gives up robustness for natural accuracy (Table 7, Figure 3): the digits presets, as released."""
    digits = load("digits")
    x, labels = digits.test.first(150).pixels(), digits.test.labels[:150]
    natural, robust = {}, {}
    for name in ("digits-cce-rm", "digits-cce-dm"):
        folder = next(p for p in checkpoints.released() if p.name == name)
        model = checkpoints.load(folder).model
        natural[name] = outcome(model, x, labels).accuracy
        robust[name] = outcome(model, attack(model, x, labels, default_attack("digits")), labels).accuracy
    assert natural["digits-cce-dm"] > natural["digits-cce-rm"]
    assert robust["digits-cce-rm"] > robust["digits-cce-dm"] + 0.05
