"""Configuration, the first stage: what a model, an attack and a training run are made of.

Every class is frozen, checks itself when it is made, and goes to and from plain JSON values.
The command line, the app and the checkpoints all build these same objects.
"""

from cce.config.attack_registry import ATTACKS, NORMS, OBJECTIVES
from cce.config.attacks import AttackConfig, TrainingAttack, default_attack
from cce.config.detectors import DETECTORS, SCORES, Detector
from cce.config.ensembles import ModelConfig
from cce.config.training import (
    ADP,
    ADV_EN,
    CCE_BASE,
    CCE_DM,
    CCE_RM,
    DEFENSES,
    NAT,
    OPTIMIZERS,
    READINGS,
    SCHEDULES,
    Defense,
    Phase,
    TrainConfig,
    mirror_keeps_class,
)
from cce.config.values import LARGEST_L2, ConfigError, check, check_pixel_units, from_json, to_json

__all__ = [
    "ADP",
    "ADV_EN",
    "ATTACKS",
    "AttackConfig",
    "CCE_BASE",
    "CCE_DM",
    "CCE_RM",
    "ConfigError",
    "DEFENSES",
    "DETECTORS",
    "Detector",
    "Defense",
    "LARGEST_L2",
    "ModelConfig",
    "NAT",
    "NORMS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "Phase",
    "READINGS",
    "SCORES",
    "SCHEDULES",
    "TrainConfig",
    "TrainingAttack",
    "check",
    "check_pixel_units",
    "default_attack",
    "from_json",
    "mirror_keeps_class",
    "to_json",
]
