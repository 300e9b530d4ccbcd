"""Tables over seeds, rebuilt from committed summaries."""

import json
import sys

import pytest

from crystalline.command import CONF_DIR
from crystalline.errors import UserError
from crystalline.report import main
from crystalline.result_pages import append, read, rebuild, row_name, spread, summaries_in, table


def summary(bpb, seed=0, **more):
    return {
        "test/bpb": bpb,
        "val/bpb": bpb - 0.1,
        "tokens_seen": 2_000_000,
        "parameters": 1_234_567,
        "parameters_without_codebooks": 1_000_000,
        "seed": seed,
        "command": f"python -m crystalline.run seed={seed} hydra.run.dir=/root/runs/one",
        "overrides": [f"seed={seed}", "model=ziggurat", "model.levels=4", "data=lovecraft"],
        "choices": {"model": "ziggurat"},
        "device": "H100",
        "versions": {"torch": "2.11"},
        "data_fingerprint": "abc",
        **more,
    }


def make_run(folder, content):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def test_the_command_adds_a_sweep_and_makes_page_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        make_run(tmp_path / "a, sweep=1" / str(seed), summary(1.8 + seed / 100, seed))
    arguments = ["name=lovecraft", "add=a, sweep=1", "row=K=64, replace"]
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    main()
    main()  # the same runs are not added twice
    assert len((tmp_path / "docs/results/data/lovecraft.jsonl").read_text().splitlines()) == 3
    page = (tmp_path / "docs/results/lovecraft.md").read_text()
    assert "| K=64, replace | 3 | 1.7100 (1.7000 to 1.7200) | 1.8100 (1.8000 to 1.8200) |" in page
    assert "| 2,000,000 |" in page
    assert (tmp_path / "docs/results/lovecraft.png").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a, sweep=1", "docs"]
    monkeypatch.setattr(sys, "argv", ["report", "name=nothing"])
    with pytest.raises(SystemExit):
        main()
    assert "docs/results/data has no nothing.jsonl (there: lovecraft)" in capsys.readouterr().err


def test_text_around_the_markers_stays(tmp_path):
    data, page, picture = (tmp_path / f"x.{kind}" for kind in ("jsonl", "md", "png"))
    append(data, [summary(1.8)], "first")
    page.write_text("# Mine\nbefore\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    rebuild(data, page, picture)
    once = page.read_text()
    rebuild(data, page, picture)
    assert page.read_text() == once
    assert once.startswith("# Mine\nbefore\n<!-- table -->\n| row |")
    assert once.endswith("<!-- /table -->\nafter\n")
    assert "old" not in once


def test_a_page_without_markers_gets_its_table_at_the_end_and_half_a_pair_is_an_error(tmp_path):
    data, page, picture = (tmp_path / f"x.{kind}" for kind in ("jsonl", "md", "png"))
    append(data, [summary(1.8)], "first")
    page.write_text("# Mine\n")
    rebuild(data, page, picture)
    assert page.read_text().startswith("# Mine\n\n<!-- table -->\n| row |")
    page.write_text("# Mine\n<!-- table -->\n")
    with pytest.raises(UserError, match="needs both markers"):
        rebuild(data, page, picture)


def test_a_page_names_the_columns_it_wants(tmp_path):
    data, page, picture = (tmp_path / f"x.{kind}" for kind in ("jsonl", "md", "png"))
    append(data, [summary(1.8, **{"study/effect all": 0.5, "val/accuracy": 0.4})], "first")
    page.write_text("<!-- table: effect all; val/bpb; val/accuracy -->\n<!-- /table -->\n")
    rebuild(data, page, picture)
    rebuild(data, page, picture)
    assert page.read_text().startswith(
        "<!-- table: effect all; val/bpb; val/accuracy -->\n"
        "| row | runs | effect all | val/bpb | val/accuracy |\n"
    )
    assert "| first | 1 | 0.5000 | 1.7000 | 0.4000 |" in page.read_text()
    page.write_text("<!-- table: effect of all -->\n<!-- /table -->\n")
    with pytest.raises(
        UserError, match=r"no column 'effect of all'; there are: val/bpb; .*effect all"
    ):
        rebuild(data, page, picture)


def test_a_page_asks_for_pictures_of_one_figure_over_another(tmp_path):
    data, page = tmp_path / "x.jsonl", tmp_path / "x.md"
    append(data, [summary(1.8, **{"test/code_bits": 100.0})], "codes, long")
    append(data, [summary(1.7)], "none, long")
    append(data, [summary(1.9)], "none, short")
    ask = "<!-- picture: test/bpb over test/code_bits; {} -->\n{}<!-- /picture -->\n"
    page.write_text(ask.format("long", "") + "after\n")
    rebuild(data, page, tmp_path / "x.png")
    once = page.read_text()
    drawn = "![test/bpb over test/code_bits](x_bpb_over_code_bits.png)\n"
    assert once.startswith(ask.format("long", drawn) + "after\n")
    assert (tmp_path / "x_bpb_over_code_bits.png").stat().st_size > 1000
    rebuild(data, page, tmp_path / "x.png")
    assert page.read_text() == once
    for wrong, words in (
        (ask.format("short", ""), "no run of a row with 'short' has both test/bpb and test/"),
        (ask.format("lon", ""), "no run of a row with 'lon'"),
        (2 * ask.format("long", ""), "two pictures would be x_bpb_over_code_bits.png"),
        (ask.format("long", "")[:-18], "a picture needs .* and, below it"),
        ("<!-- picture: test/bpb -->\n<!-- /picture -->\n", "a picture needs"),
    ):
        page.write_text(wrong)
        with pytest.raises(UserError, match=rf"x\.md: {words}"):
            rebuild(data, page, tmp_path / "x.png")
        assert page.read_text() == wrong


def test_an_edition_without_a_column_has_none_of_it_and_is_in_no_picture_with_another(tmp_path):
    data, page = tmp_path / "x.jsonl", tmp_path / "x.md"
    append(data, [summary(1.8, **{"study/all of it": 0.5})], "first")
    append(data, [summary(1.7, data_fingerprint="def")], "second")
    page.write_text("<!-- table:all of it;\n val/bpb -->\n<!-- /table -->\n")
    rebuild(data, page, tmp_path / "x.png")
    assert "| first | 1 | 0.5000 | 1.7000 |" in page.read_text()
    assert "| second | 1 | - | 1.6000 |" in page.read_text()
    page.write_text("<!-- picture: test/bpb over tokens_seen -->\n\nold\n\n<!-- /picture -->\n")
    with pytest.raises(UserError, match="several editions"):
        rebuild(data, page, tmp_path / "x.png")
    page.write_text("<!-- picture: test/bpb over study/all of it; first -->\n<!-- /picture -->\n")
    rebuild(data, page, tmp_path / "x.png")
    assert (tmp_path / "x_bpb_over_all_of_it.png").exists()


def test_no_absolute_path_of_the_machine_is_kept(tmp_path):
    data = tmp_path / "x.jsonl"
    content = summary(
        1.8, command="/usr/bin/python -m crystalline.run a='/root/b c/d' u=http://x/y"
    )
    append(data, [content], None)
    line = data.read_text()
    assert "/root" not in line
    assert "/usr" not in line
    assert "http://x/y" in line
    assert json.loads(line)["test/bpb"] == 1.8


def test_rows_are_named_after_the_model_and_what_was_set_but_the_seed():
    assert row_name(summary(1.0, seed=3)) == "ziggurat, model.levels=4"
    assert row_name({"overrides": ["seed=1"], "choices": {"model": "transformer"}}) == "transformer"


def test_editions_of_the_data_have_tables_of_their_own():
    runs = [summary(1.8, row="a"), summary(1.7, row="a", data_fingerprint="def")]
    text = table(runs)
    assert text.count("| row |") == 2
    assert "Data `abc`" in text
    assert "Data `def`" in text
    assert table(runs[:1]).count("| row |") == 1


def test_a_table_shows_the_worst_site_and_the_commands():
    dead = {"codebook/dead_fraction": 0.01, "codebook/dead_fraction/stages.0": 0.03}
    runs = [summary(1.8, 0, row="a", **dead), summary(1.9, 1, row="a", **dead)]
    text = table(runs)
    assert "| 1.0 % | 3.0 % |" in text
    assert "# a\npython -m crystalline.run seed=0" in text
    assert "H100; torch 2.11." in text


def test_bits_of_codes_are_a_column_where_a_run_has_them():
    runs = [summary(1.8, row="a", **{"test/code_bits": 12.5}), summary(1.7, row="b")]
    header, _, first, second = table(runs).splitlines()[:4]
    assert "| worst site | code bits a token | tokens seen |" in header
    assert "| - | 12.5000 | 2,000,000 |" in first
    assert "| - | - | 2,000,000 |" in second


def test_figures_of_a_study_are_columns_with_mean_and_spread():
    runs = [
        summary(1.8, 0, row="a", **{"study/transitions": 0.5, "study/effect all": 0.25}),
        summary(1.9, 1, row="a", **{"study/transitions": 0.75, "study/effect all": None}),
        summary(1.7, row="b", **{"study/effect *.mlp": 0.125, "other/figure": 3.0}),
    ]
    header, _, first, second = table(runs).splitlines()[:4]
    assert "| worst site | transitions | effect all | effect *.mlp | tokens seen |" in header
    assert "| - | 0.6250 (0.5000 to 0.7500) | 0.2500 | - | 2,000,000 |" in first
    assert "| - | - | - | 0.1250 | 2,000,000 |" in second
    assert "figure" not in header
    assert "| worst site | tokens seen |" in table([summary(1.8, row="a")])


def test_where_there_are_no_bits_per_byte_the_loss_is_shown():
    runs = [{"row": "fsm", "test/bpb": None, "test/loss": 1.18, "val/loss": 1.2, "val/bpb": None}]
    assert "| row | runs | val/loss | test/loss |" in table(runs)
    assert "| fsm | 1 | 1.2000 | 1.1800 | - | - |" in table(runs)


def test_the_spread_is_the_range_over_seeds():
    assert spread([]) == "-"
    assert spread([1.5]) == "1.5000"
    assert spread([1.0, 2.0, 1.5]) == "1.5000 (1.0000 to 2.0000)"


@pytest.mark.parametrize(("line", "message"), [("{", "x.jsonl:2: not JSON"), ("{}", 'field "row"')])
def test_a_bad_line_of_data_is_named(tmp_path, line, message):
    data = tmp_path / "x.jsonl"
    append(data, [summary(1.8)], "first")
    data.write_text(data.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        read(data)


def test_a_folder_without_a_summary_is_named(tmp_path):
    with pytest.raises(UserError, match="neither a run folder nor a sweep folder"):
        summaries_in(tmp_path)
    run = make_run(tmp_path / "run", summary(1.0))
    assert summaries_in(run)[0]["test/bpb"] == 1.0


def test_a_resumed_run_is_described_by_the_overrides_that_began_it(tmp_path):
    run = make_run(tmp_path / "run", summary(1.0, overrides=["ckpt_path=x"]))
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("- seed=4\n- model.levels=2\n")
    assert summaries_in(run)[0]["overrides"] == ["seed=4", "model.levels=2"]


def test_the_committed_data_makes_tables():
    for data in (CONF_DIR.parent / "docs" / "results" / "data").glob("*.jsonl"):
        assert "| row |" in table(read(data))
