"""What the whole app shares: its ensembles, the folder of the data sets, and the training runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from app.services.gallery import Collection, collection
from app.services.models import Registry
from app.services.own_gallery import OwnGallery
from app.services.training import Training
from cce.checkpoints.folder import Checkpoint
from cce.evaluation import own_pictures


@dataclass(frozen=True)
class Studio:
    """The ensembles, where data sets lie (None: `CCE_DATA`, else the default folder), and the runs."""

    registry: Registry
    data_root: Path | None = None
    training: Training = field(default_factory=Training)
    own: OwnGallery = field(default_factory=OwnGallery)

    def __post_init__(self) -> None:
        self.own.may_name = self.training.policy.own_folders

    def collection(self, checkpoint: Checkpoint) -> Collection:
        """The pictures to choose from for an ensemble."""
        if own_pictures.is_own(checkpoint):
            return self.own.collection(checkpoint)
        return collection(checkpoint.dataset, self.data_root, checkpoint.model.config.input_shape)
