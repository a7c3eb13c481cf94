"""Runs: training in the background: the queue of runs, their processes, and runs on other machines."""
