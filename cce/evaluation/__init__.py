"""Evaluation: accuracies under attack, detection, transferability, surfaces, and one picture before and after."""
