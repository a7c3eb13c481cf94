"""Checkpoints: an ensemble as a folder, its files and its measurements, here and on the Hub.

May be imported by: evaluation, training and what follows, the app. Must not go in: what measures an ensemble, and the
text of its card (`cce.reporting`).
"""

from cce.checkpoints.folder import Checkpoint, load, save

__all__ = ["Checkpoint", "load", "save"]
