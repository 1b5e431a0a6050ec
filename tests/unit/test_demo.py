"""`recipes/digits/demo.py`, with two steps in place of thousands."""

import runpy
from pathlib import Path

from cmtool.cli import app

DEMO = Path(__file__).parents[2] / "recipes" / "digits" / "demo.py"


def test_a_demo_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys):
    typed = []

    def short(words, standalone_mode):
        typed.append(words)
        app([*words, "--max-steps", "2", "--batch-size", "4"], standalone_mode=standalone_mode)

    main = runpy.run_path(str(DEMO))["main"]
    monkeypatch.setitem(main.__globals__, "app", short)
    monkeypatch.setitem(main.__globals__, "SAMPLES", 8)
    for _ in range(2):
        main(tmp_path)
    assert ["--resume" in words for words in typed] == [False, False, True, True]
    assert (tmp_path / "demo.png").is_file()
    assert "trained for 0.0 minutes this time" in capsys.readouterr().out
    assert not list(tmp_path.glob("*/lock"))
