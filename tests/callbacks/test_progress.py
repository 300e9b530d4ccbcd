import re
import sys

from tests.running import train


def test_in_a_pipe_there_are_plain_lines_now_and_then(corpus, tmp_path, capfd):
    run = train(
        corpus, tmp_path, "trainer.val_check_interval=2", "+callbacks.progress.every_s=3600"
    )
    assert run.status == 0, capfd.readouterr()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "4/4"]
    assert re.fullmatch(r"round 1/4  loss \d\.\d+  [\d,]+ tokens/s  0:\d\d left", lines[0])
    assert "val/bpb" in lines[1]


def test_on_a_terminal_there_is_a_bar(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    run = train(corpus, tmp_path, model="transformer")
    assert run.status == 0
    said = capsys.readouterr().err
    assert "4/4" in said
    assert "━" in said
    assert "tokens/s" in said
