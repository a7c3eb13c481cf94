"""Data: data sets, class folders and pictures as uint8 images, their augmentation and their downloads.

May be imported by: checkpoints, evaluation and what follows, the app. Must not go in: networks, and anything that
changes an image on purpose (`cce.attacks`).
"""

from cce.data.datasets import Dataset, load

__all__ = ["Dataset", "load"]
