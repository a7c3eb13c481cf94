"""Figures: what the tabs show, as Plotly figures and HTML made from plain values.

May be imported by: tabs and the app's own modules. Must not go in: gradio, and anything that computes with an ensemble.
"""
