"""Checkpoints: an ensemble as a folder, its files and its measurements, here and on the Hub."""

from cce.checkpoints.folder import Checkpoint, load, save

__all__ = ["Checkpoint", "load", "save"]
