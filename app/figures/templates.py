"""Templates of the page: the folder beside this file, and those of reports; see `cce.reporting.templates`."""

from pathlib import Path

from cce.reporting.templates import renderer

render = renderer(Path(__file__).parent / "templates")
"""Fills a template of the page; what it returns is HTML."""
