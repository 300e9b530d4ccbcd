import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.errors import UserError
from datamodules.documents import (
    Document,
    Split,
    find_files,
    is_utf8,
    read_files,
    require_text,
    separated,
)
from datamodules.splits import MIN_DOCUMENTS, split_each, split_file, split_folder


def documents(*texts):
    return [Document(f"{i:02}", memoryview(text.encode())) for i, text in enumerate(texts)]


def text_of(split):
    return b"".join(bytes(content) for content in split)


@given(text=st.text(min_size=40))
@settings(max_examples=20, deadline=None)
def test_a_file_is_cut_between_characters_and_nothing_is_lost(text):
    splits = split_each(documents(text))
    parts = [text_of(splits[name]).decode() for name in ("train", "val", "test")]
    size = len(text.encode())
    assert "".join(parts) == text
    assert 0 <= size * 90 // 100 - len(parts[0].encode()) <= 3
    assert 0 <= size * 95 // 100 - len("".join(parts[:2]).encode()) <= 3


def test_tinyshakespeare_gets_its_usual_ranges():
    splits = split_file(documents("a" * 1_115_394))
    assert splits["train"].num_bytes == 1_003_854
    assert splits["val"].num_bytes == 1_059_624 - 1_003_854


def test_arbitrary_bytes_are_cut_near_the_exact_place():
    splits = split_each([Document("a", memoryview(b"\x80" * 1000))])
    assert [splits[n].num_bytes for n in ("train", "val", "test")] == [900, 50, 50]


def test_a_small_folder_is_split_inside_each_file():
    splits = split_folder(documents(*["x" * 100] * (MIN_DOCUMENTS - 1)))
    assert [len(splits[n]) for n in ("train", "val", "test")] == [MIN_DOCUMENTS - 1] * 3
    assert splits["val"].num_bytes == 5 * (MIN_DOCUMENTS - 1)


def test_a_large_folder_is_split_by_file():
    texts = [f"document {i}" for i in range(40)]
    splits = split_folder(documents(*texts))
    assert [len(splits[n]) for n in ("train", "val", "test")] == [36, 2, 2]
    found = [bytes(content).decode() for split in splits.values() for content in split]
    assert sorted(found) == sorted(texts)


def test_one_file_more_moves_hardly_any_other():
    texts = [f"document {i}" for i in range(41)]
    before, after = split_folder(documents(*texts[:40])), split_folder(documents(*texts))
    held_out = {bytes(c) for n in ("val", "test") for c in before[n]}
    assert len(held_out & {bytes(c) for n in ("val", "test") for c in after[n]}) >= 3


def test_a_file_of_many_documents_is_cut_between_them():
    splits = split_file(documents(*[f"{i:03}" * 10 for i in range(100)]))
    assert [len(splits[n]) for n in ("train", "val", "test")] == [90, 5, 5]
    assert bytes(splits["val"][0]) == b"090" * 10


def test_an_empty_split_is_a_user_error():
    with pytest.raises(UserError, match="the val split of this corpus is empty"):
        split_each(documents("abc"))


def test_separator_lines_make_documents():
    text = "one\n\ntwo\n{0}\n three {0} four\n {0} \r\n{0}\nfive".format("<|endoftext|>")
    found = [bytes(d.content).decode() for d in separated(documents(text)[0])]
    assert found == ["one\n\ntwo", "three <|endoftext|> four", "five"]


def test_a_text_without_separators_stays_as_it_is():
    text = "\n one \n"
    [document] = separated(documents(text)[0])
    assert bytes(document.content).decode() == text


def test_files_are_found_below_a_folder_but_not_hidden_ones(tmp_path):
    for name in ("b.txt", "sub/a.txt", ".hidden", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [f.relative_to(tmp_path).as_posix() for f in find_files(tmp_path)] == [
        "b.txt",
        "sub/a.txt",
    ]
    assert [d.name for d in read_files(tmp_path)] == ["b", "sub/a"]


def test_large_files_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.documents.MAPPED_BYTES", 7)
    text = "äöü <|endoftext|>\n<|endoftext|>\nß" * 3
    (tmp_path / "a.txt").write_text(text)
    [document] = read_files(tmp_path)
    assert is_utf8(document.content)
    assert bytes(document.content).decode() == text
    assert len(separated(document)) == 4


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UserError, match=r"picture is not UTF-8 text; use data=bytes"):
        require_text(read_files(tmp_path), tmp_path)


def test_a_folder_without_text_is_a_user_error(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="holds no text"):
        require_text(read_files(tmp_path), tmp_path)


def test_digests_tell_documents_apart():
    digests = {
        Split(documents(*texts)).digest for texts in [("ab",), ("a", "b"), ("b", "a"), ("ab", "c")]
    }
    assert len(digests) == 4
