"""What the commands share: tables."""

from __future__ import annotations

from psvit.cli import show_table


def test_a_row_is_a_line_where_output_goes_into_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    header = ("network", "MACs", "parameters", "inherited", "from scratch", "logistic regression")
    row = ("0", "470.3 kFLOPs", "57.83 kparams", "89.17 %", "96.94 %", "96.67 %")
    show_table("top-1 on the validation images", [row, row], header)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    words = " ".join(row).split()
    assert lines[1] == " ".join(header).split()
    assert lines[-2:] == [words, words]
