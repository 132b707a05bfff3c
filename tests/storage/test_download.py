"""Downloads against a server on this machine: announced, checked, and nothing half-written."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from decompose_cli.errors import DecomposeError, DownloadError, InputError
from decompose_cli.messages import use_reporter
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.registry import ModelEntry, get_entry
from decompose_cli.models.weights import cached_weights_path, read_weights
from decompose_cli.storage.download import download, is_url

BODY = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()

REDIRECTED = {
    "/loop": "/loop",
    "/to-a-file": "file:///etc/hostname",
    "/to-no-host": "http://[::1",
    "/to-a-long-host": f"http://{'a' * 80}.com/",
    "/to-a-null": "http://a\0b/",
    "/relative": "file?of=the%20same",
}
LENGTHS = {"/length-of-letters": "²", "/length-of-5000-digits": "9" * 5000}


class Handler(BaseHTTPRequestHandler):
    """``/file`` is whole, ``/short`` closes early, ``/plain`` says no length, ``/chunked-short`` breaks off a chunk."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path, BODY)
        if self.path in REDIRECTED:
            self.send_response(302)
            self.send_header("Location", REDIRECTED[self.path])
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/chunked-short":
            self.send_header("Transfer-Encoding", "chunked")
        elif self.path != "/plain":
            self.send_header("Content-Length", LENGTHS.get(self.path, str(len(body))))
        self.end_headers()
        if self.path == "/short":
            self.wfile.write(body[: len(body) // 2])
        elif self.path == "/chunked-short":
            self.wfile.write(b"100\r\n" + body[:50])
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Recorder:
    """Keeps what was announced, and which files were there at that moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.files_when_announced: list[Path] = []
        self.advanced = 0

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.files_when_announced += files_below(self.folder)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def track(self, description: str, total: int | None, unit: str) -> AbstractContextManager:
        self.total, self.unit = total, unit

        def advance(count: int) -> None:
            self.advanced += count

        return nullcontext(advance)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_whole_file_arrives_and_is_announced_before(server: Server) -> None:
    target = Path("new", "folder", "net.pth")
    recorder = Recorder(Path())
    with use_reporter(recorder):
        assert download(server.url("/file"), target, digest=SHA256, by_hand="by hand") == target
    assert target.read_bytes() == BODY
    announced = " ".join(recorder.notes)
    assert all(fact in announced for fact in (server.url("/file"), "0.3 MB", str(target)))
    assert recorder.files_when_announced == []
    assert (recorder.total, recorder.advanced, recorder.unit) == (len(BODY), len(BODY), "bytes")
    assert files_below(Path()) == [target]


def test_size_that_the_server_does_not_say(server: Server) -> None:
    recorder = Recorder(Path())
    with use_reporter(recorder):
        download(server.url("/plain"), Path("net.pth"), digest=SHA256, by_hand="by hand")
    assert "size unknown" in " ".join(recorder.notes)
    assert Path("net.pth").read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "digest", "sentence"),
    [
        ("/missing", None, "the server answered 404"),
        ("/short", None, "broke off: 128000 of 256000 bytes came"),
        ("/chunked-short", None, "broke off"),
        ("/file", "0" * 8, f"its sha256 starts with {SHA256[:8]}, not 00000000"),
    ],
    ids=["404", "interrupted", "interrupted chunk", "wrong hash"],
)
@pytest.mark.parametrize("old", [None, b"old file"], ids=["nothing there", "old file there"])
def test_failure_leaves_nothing_and_says_what_to_do(
    server: Server, path: str, digest: str | None, sentence: str, old: bytes | None
) -> None:
    target = Path("net.pth")
    if old is not None:
        target.write_bytes(old)
    with pytest.raises(DownloadError) as failure:
        download(server.url(path), target, digest=digest, by_hand="Fetch it by hand.")
    assert sentence in failure.value.message
    assert server.url(path) in failure.value.message
    assert failure.value.hint == "Fetch it by hand."
    assert failure.value.exit_code == 1
    assert files_below(Path()) == ([] if old is None else [target])
    assert old is None or target.read_bytes() == old


def test_connection_refused() -> None:
    url = f"http://127.0.0.1:{free_port()}/net.pth"
    with pytest.raises(DownloadError, match=r"Cannot download .*[Rr]efused") as failure:
        download(url, Path("net.pth"), by_hand="Fetch it by hand.")
    assert failure.value.hint == "Fetch it by hand."
    assert files_below(Path()) == []


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 500 \x1b[2J\x9b\r\n\r\n", b"\x1b[2Jnonsense\r\n", b"x" * 70_000 + b"\r\n"]
)
def test_what_a_server_says_reaches_nobody_as_it_is(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(DownloadError) as failure:
            download(f"http://127.0.0.1:{listening.getsockname()[1]}/x", Path("x"), by_hand="by hand")
        thread.join()
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) < 3000


def test_connection_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.storage.download._TIMEOUT_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net.pth"
        with pytest.raises(DownloadError, match="timed out"):
            download(url, Path("net.pth"), by_hand="by hand")
    assert files_below(Path()) == []


def test_other_hashes_than_sha256(server: Server) -> None:
    md5 = hashlib.md5(BODY).hexdigest()
    download(server.url("/file"), Path("net.pth"), digest=md5, algorithm="md5", by_hand="by hand")
    with pytest.raises(DownloadError, match="its md5 starts with"):
        download(server.url("/file"), Path("b.pth"), digest="f" * 32, algorithm="md5", by_hand="by hand")


@pytest.mark.parametrize("path", [*sorted(REDIRECTED.keys() - {"/relative"}), *LENGTHS])
def test_answers_that_lead_nowhere_are_one_sentence(server: Server, path: str) -> None:
    with pytest.raises(DownloadError, match=r"^Cannot download|broke off") as failed:
        download(server.url(path), Path("file"), by_hand="BY HAND")
    assert failed.value.hint == "BY HAND"
    assert not Path("file").exists()


def test_a_redirection_within_the_server_is_followed(server: Server) -> None:
    assert download(server.url("/relative"), Path("file"), by_hand="").read_bytes() == BODY


@pytest.mark.parametrize(
    "url",
    [
        *("http://h:99999/x", "http://h:0/x", "http://h:-1/x", "http://h:abc/x", "http://h:\uff11/x", "http://h:²/x"),
        *("http://a b/x", "http://h\t/x", "http://h/\0", "http://h/\udcff", "http://h/?\udcff", "http://\udcff/x"),
        *("http://[::1", "http://[zz]/x", "http://a..b/x", f"http://{'a' * 70}.com", "http://user@/x", "http:///x"),
    ],
)
def test_addresses_that_cannot_be_are_refused_before_anything_is_asked(url: str) -> None:
    for fetch in (lambda: download(url, Path("file"), by_hand=""), lambda: read_weights(get_entry("resnet20"), url)):
        with pytest.raises(InputError, match=r"is not a web address|user name"):
            fetch()


def test_a_password_in_an_address_is_neither_sent_nor_shown() -> None:
    with pytest.raises(InputError, match="user name or a password") as refused:
        download("http://me:secret@127.0.0.1:1/x", Path("file"), by_hand="")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/file", "data://text", "://x", "C://net.pth"])
def test_only_web_addresses_are_fetched(url: str) -> None:
    with pytest.raises(InputError, match="only http and https are"):
        download(url, Path("net.pth"), by_hand="by hand")
    with pytest.raises(InputError, match="only http and https are"):
        read_weights(get_entry("resnet20"), url)
    assert files_below(Path()) == []


@pytest.mark.parametrize(
    "url",
    ["http://", "http://[bad", f"http://{'a' * 70}.invalid/x", "http://127.0.0.1:x/", "http://127.0.0.1:1/a b"],
    ids=["no host", "half an address", "long label", "port", "space"],
)
def test_malformed_addresses_are_one_sentence(url: str) -> None:
    with pytest.raises(DecomposeError) as failure:
        read_weights(get_entry("resnet20"), url)
    assert url in failure.value.message


def test_address_with_letters_beyond_ascii(server: Server) -> None:
    with pytest.raises(DecomposeError):  # what came is no checkpoint; or the address is refused
        read_weights(get_entry("resnet20"), server.url("/gewichte-größe.pth"))


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/a%20b/net.pth", "/a%20b/net.pth"),
        ("/a b/net.pth", "/a%20b/net.pth"),
        ("/größe.pth", "/gr%C3%B6%C3%9Fe.pth"),
        ("/v1:2/a@b!$&'()*+,;=~/net.pth", "/v1:2/a@b!$&'()*+,;=~/net.pth"),
    ],
)
def test_paths_are_encoded_where_they_are_not_yet(server: Server, path: str, asked: str) -> None:
    with pytest.raises(DecomposeError):  # the server has no such file
        read_weights(get_entry("resnet20"), server.url(path))
    assert server.requests == [asked]


def test_target_that_cannot_be_written(server: Server) -> None:
    Path("file").touch()
    with pytest.raises(DecomposeError, match="Cannot write"):
        download(server.url("/file"), Path("file", "net.pth"), by_hand="by hand")


@pytest.mark.parametrize(
    ("text", "expected"), [("https://host/x", True), ("file:///x", True), ("net.pth", False), ("a/b:c", False)]
)
def test_what_counts_as_an_address(text: str, expected: bool) -> None:
    assert is_url(text) is expected


@pytest.fixture(scope="module")
def checkpoint_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save(CifarResNet(20).state_dict(), buffer)
    return buffer.getvalue()


def entry_with(url: str, digest: str | None) -> ModelEntry:
    entry = get_entry("resnet20")
    return ModelEntry(entry.name, entry.build, "cifar10", 10, entry.preprocessing, weights=url, sha256=digest)


@pytest.fixture
def published(server: Server, checkpoint_bytes: bytes) -> ModelEntry:
    """A model whose default weights are on the server, under a name that holds their hash."""
    digest = hashlib.sha256(checkpoint_bytes).hexdigest()[:8]
    path = f"/models/net-{digest}.pth"
    server.files[path] = checkpoint_bytes
    return entry_with(server.url(path), digest)


@pytest.mark.parametrize("weights", [None, "default"])
def test_default_weights_are_fetched_once(server: Server, published: ModelEntry, weights: str | None) -> None:
    assert isinstance(published.weights, str)
    first = read_weights(published, weights)
    again = read_weights(published, weights, allow_download=False)
    assert len(server.requests) == 1
    assert first is not None
    assert again is not None
    assert first.source == again.source == published.weights
    assert first.sha256 == again.sha256
    assert published.sha256 is not None
    assert first.sha256.startswith(published.sha256)
    assert cached_weights_path(published.weights).is_file()


def test_damaged_cached_file_is_fetched_again(server: Server, published: ModelEntry, tmp_path: Path) -> None:
    assert isinstance(published.weights, str)
    cached = cached_weights_path(published.weights)
    assert tmp_path / "cache" in cached.parents
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"damaged")
    recorder = Recorder(tmp_path)
    with use_reporter(recorder):
        checkpoint = read_weights(published, None)
    assert checkpoint is not None
    assert len(server.requests) == 1
    assert recorder.warnings == [f"The cached file {cached} is damaged and is fetched again."]


def test_wrong_hash_leaves_nothing_in_the_cache(server: Server, published: ModelEntry, tmp_path: Path) -> None:
    assert isinstance(published.weights, str)
    server.files[published.weights.removeprefix(server.url(""))] = b"something else"
    with pytest.raises(DownloadError, match="is not the expected file") as failure:
        read_weights(published, None)
    assert f"put it at {cached_weights_path(published.weights)}" in (failure.value.hint or "")
    assert published.weights in (failure.value.hint or "")
    assert files_below(tmp_path) == []


def test_interrupted_download_leaves_nothing_in_the_cache(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="broke off"):
        read_weights(get_entry("resnet20"), server.url("/short"))
    assert files_below(tmp_path) == []


def test_downloads_switched_off(server: Server, published: ModelEntry, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="are not on this machine and downloads are off") as failure:
        read_weights(published, None, allow_download=False)
    assert "give the file with weights" in (failure.value.hint or "")
    assert server.requests == []
    assert files_below(tmp_path) == []


def test_address_without_a_hash_in_its_name(server: Server, checkpoint_bytes: bytes) -> None:
    server.files["/a/net.pth"] = server.files["/b/net.pth"] = checkpoint_bytes
    for path in ("/a/net.pth", "/b/net.pth", "/a/net.pth"):
        checkpoint = read_weights(get_entry("resnet20"), server.url(path))
        assert checkpoint is not None
        assert checkpoint.source == server.url(path)
    assert server.requests == ["/a/net.pth", "/b/net.pth"]


def test_hash_in_the_name_of_a_users_address_is_checked(server: Server, checkpoint_bytes: bytes) -> None:
    server.files["/net-0000000a.pth"] = checkpoint_bytes
    with pytest.raises(DownloadError, match="is not the expected file"):
        read_weights(get_entry("resnet20"), server.url("/net-0000000a.pth"))


def test_what_is_downloaded_but_no_checkpoint(server: Server) -> None:
    with pytest.raises(InputError, match="damaged or truncated, or not a checkpoint"):
        read_weights(get_entry("resnet20"), server.url("/page.pth"))


def test_network_without_default_weights() -> None:
    with pytest.raises(InputError, match="resnet20 has no default weights"):
        read_weights(entry_with("", None).__class__("resnet20", lambda *_: None, None, 10, None), None)
