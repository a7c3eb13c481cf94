"""Paper: the printed numbers, ours beside them, and what both say of the paper's claims.

May be imported by: reporting, runs, cli, the app. Must not go in: HTML and pictures (`cce.reporting`), and ways to
measure that are not the paper's alone (`cce.evaluation`).
"""
