"""Evaluation: accuracies under attack, detection, transferability, surfaces, and one picture before and after.

May be imported by: training, paper and what follows, the app. Must not go in: figures, tables and HTML
(`cce.reporting`), and what the paper printed (`cce.paper`).
"""

from cce.evaluation.outcomes import outcome

__all__ = ["outcome"]
