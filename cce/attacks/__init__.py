"""Attacks: every attack on an ensemble, one module each, and the loop, the balls and the batches that they share."""

from cce.attacks.gradient import attack

__all__ = ["attack"]
