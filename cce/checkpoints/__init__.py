"""Checkpoints: an ensemble as a folder, its files and its measurements, here and on the Hub."""
