import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crystalline.errors import UserError
from datamodules.corpora.tinyshakespeare import TinyShakespeare
from datamodules.corpora.tinystories import TinyStories
from datamodules.download import download

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; breaks off after `server.cut` bytes of a body while that is set."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start, total, status = 0, len(body), 200
        wanted = self.headers.get("Range") if self.server.ranges else None
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start = int(first)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body, status = body[start : int(last) + 1 if last else None], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.cuts, server.ranges, server.requests = {"/f": BODY}, [], True, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, folder, sha256=SHA256, **options):
    return download(f"{server.url}/f", folder / "f", corpus="plays", sha256=sha256, **options)


def files(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_a_good_file_arrives_and_is_not_fetched_again(server, tmp_path):
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert files(tmp_path) == ["f"]
    fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_a_missing_file_is_one_line_that_names_the_ways_out(server, tmp_path):
    server.files.clear()
    with pytest.raises(UserError) as caught:
        fetch(server, tmp_path)
    message = str(caught.value)
    assert "404" in message
    assert "\n" not in message
    assert all(w in message for w in ("data.path", "CRYSTALLINE_DATA_DIR", "data=shakespeare"))
    assert files(tmp_path) == []


def test_a_file_that_breaks_off_is_taken_up_where_it_was(server, tmp_path):
    server.cuts = [100_000]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert [r for _, r in server.requests] == [None, "bytes=100000-"]


def test_a_file_that_breaks_off_again_and_again_is_resumed_by_the_next_call(server, tmp_path):
    server.cuts = [1000, 1000, 1000]
    with pytest.raises(UserError, match=r"cut off at 3,000 of 1,024,000 bytes; run again"):
        fetch(server, tmp_path)
    assert files(tmp_path) == ["f.part"]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.requests[-1][1] == "bytes=3000-"
    assert files(tmp_path) == ["f"]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.cuts, server.ranges = [1000], False
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match="has checksum"):
        fetch(server, tmp_path, sha256="0" * 64)
    assert files(tmp_path) == []


def test_a_part_that_is_whole_already_is_moved(server, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY)
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_a_part_of_a_longer_file_is_dropped(server, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY + BODY)
    assert fetch(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_only_the_head_of_a_file_is_fetched(server, tmp_path, ranges):
    server.ranges = ranges
    assert fetch(server, tmp_path, sha256=None, max_bytes=5000).read_bytes() == BODY[:5000]


def test_a_short_file_is_whole_below_the_limit(server, tmp_path):
    assert fetch(server, tmp_path, max_bytes=10**9).read_bytes() == BODY


def test_no_server_is_a_user_error_with_nothing_written(tmp_path):
    with pytest.raises(UserError, match="cannot be reached"):
        download("http://127.0.0.1:9/f", tmp_path / "f", corpus="plays")
    assert files(tmp_path) == []


def test_tinyshakespeare_comes_from_its_home(server, tmp_path):
    text = b"First Citizen:\nSpeak, speak.\n" * 50
    server.files["/input.txt"] = text
    corpus = TinyShakespeare(
        str(tmp_path / "none"), f"{server.url}/input.txt", hashlib.sha256(text).hexdigest()
    )
    splits = corpus.splits(None, tmp_path / "cache")
    assert sum(split.num_bytes for split in splits.values()) == len(text)
    server.files.clear()
    assert corpus.splits(None, tmp_path / "cache")["val"].digest == splits["val"].digest


def test_tinystories_come_from_home_without_the_stories_that_are_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.corpora.tinystories.HEAD_BYTES", 3000)
    told = [f"Story {i} of a caf\u00e9 cat." for i in range(200)]
    text = "\n<|endoftext|>\n".join(told).encode()
    server.files["/TinyStoriesV2-GPT4-train.txt"] = text
    server.files["/TinyStoriesV2-GPT4-valid.txt"] = text[:1000]
    splits = TinyStories(str(tmp_path / "none"), server.url).splits(None, tmp_path / "cache")
    train = [bytes(story).decode() for story in splits["train"]]
    assert train == told[: len(train)]
    assert len(train) == text[:3000].count(b"<|endoftext|>")
    assert bytes(splits["val"][0]).decode() == told[1]
    assert abs(len(splits["val"]) - len(splits["test"])) <= 1
