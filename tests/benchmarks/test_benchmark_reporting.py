import json
import time

import pytest

from benchmarks.reporting import arguments, report, side_by_side, table


def test_report_prints_and_writes_the_same(tmp_path, capsys):
    path = tmp_path / "found.json"
    report({"training.vs_float32": 3.25}, [{"step": "plain", "seconds": 1.5}, {"step": "fast", "n": 2}], path)
    found = json.loads(path.read_text())
    assert found["ratios"] == {"training.vs_float32": 3.25}
    assert found["rows"] == [{"step": "plain", "seconds": 1.5}, {"step": "fast", "n": 2}]
    assert found["machine"]["cores"] >= 1 and found["machine"]["torch"]
    shown = capsys.readouterr().out
    assert "training.vs_float32" in shown and "3.25" in shown and "plain" in shown


def test_times_tell_slow_from_fast_and_stop_in_time():
    calls = []
    works = {"slow": lambda: (calls.append("slow"), time.sleep(0.03)), "fast": lambda: calls.append("fast")}
    found = side_by_side(works, rounds=3)
    assert calls == ["slow", "fast"] * 4  # one unmeasured round, then in turn
    assert found["slow"].wall >= 0.03 > found["fast"].wall
    assert found["slow"].seconds("cpu") < 0.02 and found["slow"].rounds == 3
    assert side_by_side(works, rounds=99, seconds=0.0)["slow"].rounds == 1


def test_columns_line_up():
    lines = table([{"a": "x", "n": 12345.0}, {"a": "longer", "n": 0.00012}]).splitlines()
    assert lines == ["a             n", "x        12,345", "longer  0.00012"]


def test_arguments_are_the_shared_ones(tmp_path):
    told = arguments("x").parse_args(["--json", str(tmp_path / "a.json"), "--clock", "cpu"])
    assert (told.clock, told.threads, told.seed) == ("cpu", 0, 0)
    with pytest.raises(SystemExit):
        arguments("x").parse_args(["--clock", "sun"])
