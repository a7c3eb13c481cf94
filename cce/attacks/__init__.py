"""Attacks: every attack on an ensemble, one module each, and the loop, the balls and the batches that they share.

May be imported by: detectors, evaluation, training and what follows, the app. Must not go in: training losses (an
attack is given what it climbs), and what counts as fooled (`cce.evaluation`).
"""

from cce.attacks.gradient import attack

__all__ = ["attack"]
