"""Training: losses, one step, the trainer that runs the phases, and the folder that a run writes.

May be imported by: paper, reporting, runs, cli, the app. Must not go in: the queue of runs and their processes
(`cce.runs`), and the commands that start one (`cce.cli`).
"""
