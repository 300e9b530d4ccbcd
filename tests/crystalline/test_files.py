from crystalline.files import checkpoint_in, run_folder


def test_a_run_folder_stands_for_its_best_weights_else_the_last(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert checkpoint_in(tmp_path) == folder / "best.ckpt"  # what the error will name
    (folder / "last.ckpt").touch()
    assert checkpoint_in(tmp_path) == folder / "last.ckpt"
    (folder / "best.ckpt").touch()
    assert checkpoint_in(tmp_path) == folder / "best.ckpt"
    assert checkpoint_in(folder / "last.ckpt") == folder / "last.ckpt"


def test_results_go_to_the_run_that_is_named_or_holds_the_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for named in (tmp_path, tmp_path / "checkpoints" / "best.ckpt", tmp_path / "kept.ckpt"):
        assert run_folder(named) == tmp_path
