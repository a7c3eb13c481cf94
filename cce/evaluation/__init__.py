"""Evaluation: accuracies under attack, detection, transferability, surfaces, and one picture before and after."""

from cce.evaluation.outcomes import outcome

__all__ = ["outcome"]
