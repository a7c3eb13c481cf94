"""Reporting: figures, reports and model cards, made from what was measured; nothing is measured here for itself."""
