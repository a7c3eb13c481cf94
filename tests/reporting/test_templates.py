"""The templates of reports and of the page: every value is escaped, none may be missing, all are shipped."""

import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from app.figures import templates as page_templates
from app.figures.values import fold, framed, table
from cce.reporting import templates as report_templates

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"cce": Path(report_templates.__file__).parent, "app": Path(page_templates.__file__).parent}


def test_every_value_is_escaped_but_html_of_another_template():
    shown = table("<b>", ["<i>"], [['"x"', "<script>"]])
    assert "&lt;b&gt;" in shown and "&lt;i&gt;" in shown and "&#34;x&#34;" in shown and "<script>" not in shown
    assert fold("<b>", "<p>inside</p>").endswith("<summary>&lt;b&gt;</summary><p>inside</p></details>")
    assert "<tbody><tr></tr></tbody>" in framed("x", "<th></th>", "<tr></tr>", "kind")
    detection = report_templates.render("detection.html", heads=["a"], rows=[["<x>", Markup("<y>")]])
    assert "<td>&lt;x&gt;</td><td><y></td>" in detection and isinstance(detection, Markup)


def test_a_value_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="'rows' is undefined"):
        report_templates.render("detection.html", heads=[])


def test_every_template_is_read_and_shipped():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, folder in FOLDERS.items():
        files = sorted((folder / "templates").iterdir())
        assert files
        matched = {found for pattern in shipped[package] for found in (ROOT / package).glob(pattern)}
        assert set(files) <= matched
        for file in files:
            report_templates.environment(folder / "templates").get_template(file.name)
