"""Settings changed by name, and one rule that gives weights to every phase of Eq. 5."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cce.config import ADV_EN, CCE_BASE, ConfigError
from cce.config.overrides import override, with_loss
from cce.config.recipes import RECIPES

CONFIG = RECIPES["digits-cce-rm"]()
ROOT = Path(__file__).resolve().parents[2]


def test_a_nested_field_is_set_by_its_path():
    made = override(CONFIG, ["phases.0.epochs=2.5", "optimizer=sgd"])
    assert made.phases[0].epochs == 2.5 and made.optimizer == "sgd" and made.phases[1:] == CONFIG.phases[1:]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("batch_size", "'batch_size' is not a setting; it must be FIELD=VALUE"),
        ("phases.9.epochs=1", "'phases.9.epochs=1': the config has no field 'phases.9.epochs'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_words_that_fit_the_page_too(setting, words):
    with pytest.raises(ConfigError) as told:
        override(CONFIG, [setting])
    assert str(told.value) == words


def test_weights_go_to_every_phase_of_eq_5_and_to_no_other():
    first, last = CONFIG.phases[0], CONFIG.phases[-1]
    mixed = replace(CONFIG, phases=(replace(first, defense=ADV_EN, name="warm-up"), replace(last, defense=CCE_BASE)))
    made = with_loss(mixed, {"lambda_dm": 3.0})
    assert made.phases[0] == mixed.phases[0]
    assert made.phases[1].defense == replace(CCE_BASE, lambda_dm=3.0)


def raised_words(path: Path) -> list[str]:
    """The text of every error that a module raises, by `raise` or by `check`."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "check" or node.func.id.endswith("Error"):
                parts = [p.value for p in ast.walk(node) if isinstance(p, ast.Constant) and isinstance(p.value, str)]
                texts.append("".join(parts))
    return texts


@pytest.mark.parametrize("folder", ["config", "data", "evaluation", "training", "runs", "checkpoints", "attacks"])
def test_no_error_of_the_library_names_a_flag_of_the_command_line(folder):
    flags = {
        t for path in (ROOT / "cce" / folder).rglob("*.py") for t in raised_words(path) if re.search(r"--[a-z]", t)
    }
    assert not flags
