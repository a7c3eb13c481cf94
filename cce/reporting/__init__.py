"""Reporting: text, figures, HTML and model cards, made from what was measured.

May be imported by: runs, cli, the app. Must not go in: measuring, and anything that only a screen needs
(`app.figures`).
"""
