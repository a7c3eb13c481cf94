"""Runs: training in the background: the queue of runs, their processes, and runs on other machines.

May be imported by: cli, the app. Must not go in: how a step is taken (`cce.training`), and what a form or a page shows.
"""
