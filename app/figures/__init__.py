"""Figures: what the tabs show, as Plotly figures and HTML; plain values in, no gradio."""
