from ptqflow.reporting.selftest import printed

ROW = {"platform": "cpu", "device": "cpu", "value": 0.0, "limit": 0.5, "detail": ""}


def test_a_failed_probe_stands_first_with_what_it_says():
    rows = [
        ROW | {"probe": "a", "relied_on_by": None, "passed": True},
        ROW | {"probe": "b", "relied_on_by": "training", "passed": False, "value": 1.0, "detail": "lost"},
        ROW | {"probe": "c", "relied_on_by": None, "passed": None, "value": None, "limit": None},
    ]
    table = printed(rows)
    assert [row[2] for row in table.rows] == ["b", "c", "a"]
    assert table.rows[0][3:] == ["training", "FAILED", "1.0e+00", "5.0e-01"]
    assert table.rows[1][4:] == ["not run", "–", "–"]
    assert table.rows[2][5] == "0"
    assert table.notes[1:] == ["cpu, b: lost"]
