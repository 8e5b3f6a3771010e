"""Models by their address: what comes from the network is what was stated, or nothing."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cryoden import download, export_weights
from cryoden.checkpoint import load_denoiser
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.models import find_checkpoint
from cryoden.networks import CompactUnet


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        server.asked.append(self.path)
        if self.path not in server.files:
            self.send_error(404)
            return
        body, length = server.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        if length > len(body):
            server.closing.wait(5)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Sends files, and may promise more bytes of one than come."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, tuple[bytes, int]] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()

    def offer(self, path: str, body: bytes, length: int = 0) -> str:
        """Its address, with the digest of its content."""
        self.files[path] = body, length
        return f"http://127.0.0.1:{self.server_port}{path}#sha256={hashlib.sha256(body).hexdigest()}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYODEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    export_weights(Denoiser(CompactUnet(channels=4, levels=2), voxel_size=9.0), path)
    return path.read_bytes()


def files_of(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_model_is_fetched_once_and_never_renewed(server, cache, weights):
    address = server.offer("/models/mine.safetensors?download=1", weights)
    assert load_denoiser(address).voxel_size == 9.0
    server.offer("/models/mine.safetensors?download=1", b"a newer one")
    path = find_checkpoint(address)
    assert path.read_bytes() == weights
    assert path.name == "mine.safetensors"
    assert len(server.asked) == 1
    assert files_of(cache) == [path]


def test_one_that_was_damaged_in_the_cache_is_fetched_again(server, cache, weights):
    address = server.offer("/mine.safetensors", weights)
    path = find_checkpoint(address)
    path.write_bytes(weights[:-1])
    assert find_checkpoint(address).read_bytes() == weights
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/mine.safetensors",
        "https://example.org/mine.safetensors#sha256=",
        f"https://example.org/mine.safetensors#sha256={'a' * 63}",
        f"https://example.org/mine.safetensors#md5={'a' * 64}",
        f"file:///etc/passwd#sha256={'a' * 64}",
        f"https:///a b#sha256={'a' * 64}",
    ],
)
def test_without_its_digest_nothing_is_asked_of_the_network(cache, monkeypatch, address):
    monkeypatch.setattr("requests.get", lambda *_, **__: pytest.fail("went to the network"))
    with pytest.raises(CryodenError, match="needs its SHA-256, so that it is what was meant"):
        find_checkpoint(address)


def test_what_is_not_as_stated_does_not_enter_the_cache(server, cache, weights, monkeypatch):
    address = server.offer("/mine.safetensors", weights)
    server.offer("/mine.safetensors", weights[:-1] + b"x")
    with pytest.raises(CryodenError, match=r"mine\.safetensors: its SHA-256 is [0-9a-f]{64}, and [0-9a-f]{64} is"):
        load_denoiser(address)
    server.offer("/mine.safetensors", weights, 2 * len(weights))
    with pytest.raises(CryodenError, match=r"not to be downloaded \(no answer in 0\.3 s\); connect to the network, or"):
        load_denoiser(address)
    del server.files["/mine.safetensors"]
    with pytest.raises(CryodenError, match=r"not to be downloaded \(HTTP 404\)"):
        load_denoiser(address)
    server.offer("/mine.safetensors", weights)
    monkeypatch.setattr(download, "_LARGEST", 100)
    with pytest.raises(CryodenError, match=r"not to be downloaded \(more than 1e-07 GB\)"):
        load_denoiser(address)
    assert files_of(cache) == []


def test_a_name_in_an_address_leads_nowhere_else(server, cache, weights):
    for path in ("/a/..%2F..%2Fmine.safetensors", "/a/.mine.safetensors", "/a/" + "x" * 300 + ".safetensors", "/a/"):
        found = find_checkpoint(server.offer(path, weights))
        assert found.resolve().parent.parent == cache.resolve()
        assert found.suffix in (".safetensors", "")


def test_a_cache_that_cannot_be_written_is_told(server, tmp_path, weights, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CRYODEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(CryodenError, match=r"cannot write to the cache .*set CRYODEN_CACHE"):
        find_checkpoint(server.offer("/mine.safetensors", weights))
