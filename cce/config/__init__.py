"""Configuration: what models, attacks, detectors and runs are made of, as frozen classes that check themselves.

May be imported by: machine, data and what follows, the app. Must not go in: anything that computes, reads an image or
knows where a value was typed.
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
