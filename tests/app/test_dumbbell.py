"""The picture of printed beside measured: where each dot stands, what it says, and what is left out."""

import re

from app.figures import dumbbell, paper_tables
from cce.paper import printed as paper
from cce.paper.cells import AT_RELEASE, NO_CHECKPOINT, Result
from cce.paper.orders import HOLDS, Order


def result(row="PGD", column="ADP", printed=40.0, measured=50.0, margin=None, status=AT_RELEASE):
    return Result(f"table3/{row}/{column}", row, column, printed, status, measured=measured, margin=margin, n=1000)


def places(picture: str, kind: str) -> list[float]:
    return [float(x) for x in re.findall(rf'class="{kind}" style="left:([\d.]+)%', picture)]


def test_dots_stand_where_their_numbers_are():
    shown = dumbbell.picture([result(), result(column="CCE-RM", printed=60.0, measured=20.0, margin=5.0)], "percent")
    assert places(shown, "ring") == [40.0, 60.0] and places(shown, "dot") == [50.0, 20.0]
    assert places(shown, "bar") == [40.0, 20.0] and places(shown, "margin") == [15.0]
    assert "+10.0" in shown and "−40.0" in shown
    assert 'aria-label="CCE-RM: printed 60.0, measured 20.0, n = 1,000"' in shown and shown.count("<h5>") == 1


def test_other_units_are_drawn_from_zero_to_the_highest():
    shown = dumbbell.picture([result(printed=100.0, measured=200.0)], "seconds")
    assert places(shown, "dot") == [95.24] and "from 0 to 210 seconds" in shown


def test_what_is_not_measured_or_not_printed_has_no_line():
    absent = [result(measured=None, status=NO_CHECKPOINT), result(printed=None), result(measured="Conv, FC")]
    assert dumbbell.picture(absent, "percent") == ""


def test_names_are_escaped():
    assert "<b>" not in dumbbell.picture([result(row="<b>", column='"><b>')], "percent").replace("<b></b>", "")


def test_the_overview_counts_cells_and_verdicts():
    item = paper.choose(["table3"])[0]
    order = Order("Table 3", "PGD", "A", "B", (2.0, 1.0), (2.0, 1.0), 0.1, (10, 10), HOLDS)
    shown = paper_tables.overview([(item, [result(), result(measured=None, status=NO_CHECKPOINT)])], [order])
    assert 'href="#paper-table3"' in shown and "1 of 2" in shown and "<td>1</td><td>–</td><td>–</td>" in shown
    assert paper_tables.datasets(item) == ["CIFAR-10"]
