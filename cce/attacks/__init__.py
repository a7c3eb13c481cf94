"""Attacks: every attack on an ensemble, one module each, and the loop, the balls and the batches that they share."""
