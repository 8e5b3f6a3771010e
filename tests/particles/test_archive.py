import gzip
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gemmi
import pytest

from cryoden import download
from cryoden.errors import CryodenError
from cryoden.particles import archive
from cryoden.particles.archive import fetch, find_or_fetch


def mmcif(n_atoms: int = 40) -> bytes:
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    structure[0].add_chain(gemmi.Chain("A"))
    for i in range(n_atoms):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(i + 1))
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(3.8 * i, 0, 0)
        residue.add_atom(atom)
        structure[0][0].add_residue(residue)
    structure.setup_entities()
    text: str = structure.make_mmcif_document().as_string()
    return f"{text}#\n".encode()  # as the archive's files end


CIF = mmcif()
CIF_GZ = gzip.compress(CIF)
HTML = b"<html><body>Please log in to this network</body></html>"
NO_ATOMS = b"data_1BXN\n_entry.id 1BXN\n"
BETWEEN_ROWS = CIF[: CIF.index(b"\n", len(CIF) // 2) + 1]  # gemmi reads this half of a file without complaint

Answer = Callable[[BaseHTTPRequestHandler], None]


def sends(body: bytes, *, status: int = 200, length: int | None = None) -> Answer:
    """An answer whose header may promise more bytes than come."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(length or len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def ends(body: bytes) -> Answer:
    """An answer that does not say how long it is, and ends."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(body)

    return answer


def drips(pause: float) -> Answer:
    """An answer of one byte at a time, for ever."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        server: Server = request.server  # type: ignore[assignment]
        while not server.closing.wait(pause):
            try:
                request.wfile.write(b"d")
            except OSError:
                return

    return answer


def stalls(body: bytes = b"") -> Answer:
    """An answer that stops after its first bytes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if body:
            request.send_response(200)
            request.send_header("Content-Length", str(len(CIF_GZ)))
            request.end_headers()
            request.wfile.write(body)
        server: Server = request.server  # type: ignore[assignment]
        server.closing.wait(20)

    return answer


MISSING = sends(b"no such entry", status=404)


class Server(ThreadingHTTPServer):
    """Two mirrors, /first/ID.cif.gz and /second/ID.cif, that answer as a test tells them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.barrier: threading.Barrier | None = None
        self.mirrors = tuple(
            f"http://127.0.0.1:{self.server_port}/{name}" for name in ("first/{id}.cif.gz", "second/{id}.cif")
        )


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.barrier is not None:
            self.server.barrier.wait(10)
        self.server.answers.get(self.path, MISSING)(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(archive, "MIRRORS", server.mirrors)
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(download, "_LARGEST", 20_000)
    monkeypatch.setattr(archive, "_LARGEST_TEXT", 200_000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYODEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CRYODEN_STRUCTURE_DIR", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any download fails the test."""
    monkeypatch.setattr("requests.get", lambda *_, **__: pytest.fail("went to the network"))


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def n_atoms(path: Path) -> int:
    return int(gemmi.read_structure(str(path))[0].count_atom_sites())


class TestDownload:
    @pytest.mark.parametrize("entry", ["1bxn", "1BXN", "pdb_00001bxn", "PDB_00001BXN"])
    def test_good(self, server: Server, cache: Path, entry: str) -> None:
        server.answers["/first/1bxn.cif.gz"] = sends(CIF_GZ)
        path = find_or_fetch(entry)
        assert path == cache / "1bxn.cif.gz"
        assert n_atoms(path) == 40
        assert names(cache) == ["1bxn.cif.gz"]
        assert find_or_fetch(entry) == path
        assert server.requests == ["/first/1bxn.cif.gz"]

    def test_extended_id_beyond_four_characters(self, server: Server, cache: Path) -> None:
        server.answers["/first/pdb_10001bxn.cif.gz"] = sends(CIF_GZ)
        assert find_or_fetch("pdb_10001BXN") == cache / "pdb_10001bxn.cif.gz"

    def test_suffix_follows_content(self, server: Server, cache: Path) -> None:
        server.answers["/first/1bxn.cif.gz"] = sends(CIF)  # unpacked on its way
        assert n_atoms(find_or_fetch("1bxn")) == 40
        assert names(cache) == ["1bxn.cif"]

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (MISSING, "HTTP 404"),
            (sends(b"busy", status=503), "HTTP 503"),
            (sends(CIF_GZ[: len(CIF_GZ) // 2]), "damaged gzip file"),
            (sends(CIF_GZ[:-30] + bytes(30)), "damaged gzip file"),
            (sends(CIF_GZ[:-100], length=len(CIF_GZ)), "broken off"),
            (sends(BETWEEN_ROWS, length=len(CIF)), "broken off"),
            (sends(HTML), "not an mmCIF file"),
            (sends(gzip.compress(HTML)), "not an mmCIF file"),
            (sends(b""), "not an mmCIF file"),
            (sends(NO_ATOMS), "an mmCIF file without atoms"),
            (ends(BETWEEN_ROWS), "an mmCIF file that ends among its atoms"),
            (sends(CIF.replace(b"_entry.id", b"_entry.id 2abc\n_entry.no")), "another entry, 2abc"),
            (drips(0.1), "slower than 1000 bytes a second"),
            (sends(bytes(30_000)), "more than 2e-05 GB"),
            (sends(gzip.compress(bytes(300_000))), "more than 0.0002 GB when unpacked"),
            (stalls(), "no answer in 0.3 s"),
            (stalls(CIF_GZ[:100]), "no answer in 0.3 s"),
        ],
    )
    def test_fall_back_then_both_down(self, server: Server, cache: Path, bad: Answer, reason: str) -> None:
        server.answers = {
            "/first/1bxn.cif.gz": bad,
            "/second/1bxn.cif": sends(CIF),
            "/first/3cf3.cif.gz": bad,
        }
        start = time.monotonic()
        assert n_atoms(find_or_fetch("1bxn")) == 40
        assert time.monotonic() - start < 5
        assert server.requests == ["/first/1bxn.cif.gz", "/second/1bxn.cif"]
        assert names(cache) == ["1bxn.cif"]

        server.answers["/second/3cf3.cif"] = sends(b"gone", status=410)
        with pytest.raises(CryodenError, match=rf": {reason}, .*: HTTP 410\)"):
            find_or_fetch("3cf3")
        assert names(cache) == ["1bxn.cif"]

    def test_half_a_file_would_parse(self) -> None:
        """So a transfer that breaks off must be noticed by its length."""
        half = gemmi.read_structure_string(BETWEEN_ROWS, format=gemmi.CoorFormat.Mmcif)
        assert 0 < half[0].count_atom_sites() < 40

    def test_no_network(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
            port = closed.server_port
        monkeypatch.setattr(archive, "MIRRORS", (f"http://127.0.0.1:{port}/{{id}}.cif.gz",))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(CryodenError, match="no connection") as raised:
            find_or_fetch("1bxn")
        message = str(raised.value)
        assert message.startswith("1bxn: not in the cache")
        assert "run `cryoden fetch 1bxn`, or put 1bxn.cif into structure_dir" in message
        assert "CRYODEN_STRUCTURE_DIR" in message
        assert "\n" not in message
        assert names(cache) == []

    def test_unknown_id(self, server: Server, cache: Path) -> None:
        with pytest.raises(CryodenError, match=r"^9zzz: the PDB has no entry of this ID: check the ID$"):
            find_or_fetch("9zzz")
        with pytest.raises(CryodenError, match=r"^3qml: .* misprint of 3qm1"):
            find_or_fetch("3qml")
        assert names(cache) == []

    def test_cache_not_writable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("CRYODEN_CACHE", str(tmp_path / "file"))
        with pytest.raises(CryodenError, match=r"cannot write to the cache .*set CRYODEN_CACHE"):
            find_or_fetch("1bxn")


class TestSeveral:
    def test_at_once(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entries = ["4cr2", "1bxn", "3cf3", "1u6g"]
        server.barrier = threading.Barrier(len(entries))  # lets nobody through until all have come
        server.answers = {f"/first/{entry}.cif.gz": sends(CIF_GZ) for entry in entries}
        monkeypatch.setattr(download, "TIMEOUT", 10)
        paths = fetch(entries)
        assert list(paths) == entries
        assert names(cache) == sorted(path.name for path in paths.values())
        assert all(n_atoms(path) == 40 for path in paths.values())

    def test_each_id_once(self, server: Server) -> None:
        server.answers["/first/1bxn.cif.gz"] = sends(CIF_GZ)
        paths = fetch(["1bxn", "1BXN", "1bxn", "pdb_00001bxn"])
        assert list(paths) == ["1bxn", "1BXN", "pdb_00001bxn"]
        assert len(set(paths.values())) == len(server.requests) == 1

    def test_one_error_after_all_were_tried(self, server: Server, cache: Path) -> None:
        for entry in ("1bxn", "3cf3"):
            server.answers[f"/first/{entry}.cif.gz"] = sends(CIF_GZ)
        server.answers |= {f"/first/{entry}.cif.gz": sends(HTML) for entry in ("1u6g", "4b4t")}
        with pytest.raises(CryodenError) as raised:
            fetch(["9zzz", "1bxn", "tomo", "1u6g", "4b4t", "3cf3"])
        message = str(raised.value)
        assert "tomo: no structure file of this name in structure_dir (not set), and not a PDB ID" in message
        assert "9zzz: the PDB has no entry" in message
        assert "1u6g, 4b4t: not in the cache" in message
        assert "run `cryoden fetch 1u6g 4b4t`, or put 1u6g.cif, 4b4t.cif into" in message
        assert "\n" not in message
        assert names(cache) == ["1bxn.cif.gz", "3cf3.cif.gz"]

    def test_nothing_to_do(self, cache: Path, no_network: None) -> None:
        assert fetch([]) == {}
        assert not cache.exists()


class TestProcesses:
    """What another process, or the end of this one, may do to the cache."""

    def start(self, server: Server, *entries: str, **options: object) -> "subprocess.Popen[bytes]":
        code = (
            "import signal\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
            "from cryoden.particles import archive\n"
            f"archive.MIRRORS = {server.mirrors}\n"
            "archive.TIMEOUT = 10\n"
            f"archive.fetch({entries})\n"
        )
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            [sys.executable, "-c", code], env=os.environ | {"TERM": "xterm"}, **options
        )

    def test_same_entry_at_once(self, server: Server, cache: Path) -> None:
        server.barrier = threading.Barrier(2)
        server.answers["/first/1bxn.cif.gz"] = sends(CIF_GZ)
        processes = [self.start(server, "1bxn") for _ in range(2)]
        assert [process.wait(30) for process in processes] == [0, 0]
        assert len(server.requests) == 2
        assert names(cache) == ["1bxn.cif.gz"]
        assert n_atoms(cache / "1bxn.cif.gz") == 40

    def test_interrupt(self, server: Server, cache: Path) -> None:
        flowing = threading.Event()

        def drips(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.end_headers()
            while not server.closing.wait(0.02):
                try:
                    request.wfile.write(bytes(100_000))
                except OSError:
                    return
                flowing.set()

        entries = [f"1bx{letter}" for letter in "abcdefgh"]
        server.answers = {f"/first/{entry}.cif.gz": drips for entry in entries}
        process = self.start(server, *entries, stderr=subprocess.PIPE)
        assert flowing.wait(30)
        assert len(names(cache)) == 1
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=8)  # less than the timeout of the transfer
        assert b"KeyboardInterrupt" in stderr
        assert process.returncode != 0
        assert names(cache) == []
        assert len(server.requests) <= 4  # those that ran; none went on to the other mirror

    def test_leftovers_of_a_kill_go_with_the_next_download(self, server: Server, cache: Path) -> None:
        server.answers = {"/first/1bxn.cif.gz": stalls(CIF_GZ[:100]), "/first/3cf3.cif.gz": sends(CIF_GZ)}
        process = self.start(server, "1bxn")
        deadline = time.monotonic() + 30
        while not any(cache.glob(".*/1bxn")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert len(names(cache)) == 1
        find_or_fetch("3cf3")
        assert names(cache) == ["3cf3.cif.gz"]

    def test_quiet_unless_stderr_is_a_terminal(self, server: Server) -> None:
        server.answers = {f"/first/{entry}.cif.gz": sends(CIF_GZ) for entry in ("1bxn", "3cf3")}
        process = self.start(server, "1bxn", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.communicate(timeout=30) == (b"", b"")

        terminal, theirs = pty.openpty()
        process = self.start(server, "3cf3", stderr=theirs, stdout=subprocess.PIPE)
        assert process.communicate(timeout=30)[0] == b""
        os.set_blocking(terminal, False)
        assert b"PDB entries" in os.read(terminal, 10_000)
        os.close(terminal)
        os.close(theirs)


class TestStructureDir:
    @pytest.mark.parametrize("gz", ["", ".gz", ".GZ"])
    @pytest.mark.parametrize("name", ["1bxn.cif", "1BXN.pdb", "1bxn.ENT", "pdb1bxn.ent", "PDB1BXN.ENT"])
    @pytest.mark.parametrize("entry", ["1bxn", "1BXN", "pdb_00001bxn"])
    def test_every_name(self, tmp_path: Path, no_network: None, entry: str, name: str, gz: str) -> None:
        file = tmp_path / f"{name}{gz}"
        file.touch()
        (tmp_path / "11bxn.cif").touch()
        (tmp_path / "1bxn.mrc").touch()
        assert find_or_fetch(entry, tmp_path) == file
        assert find_or_fetch(entry, str(tmp_path)) == file

    def test_environment_variable_and_argument(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
    ) -> None:
        for folder in ("variable", "argument"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "1bxn.cif").touch()
        monkeypatch.setenv("CRYODEN_STRUCTURE_DIR", str(tmp_path / "variable"))
        assert find_or_fetch("1bxn") == tmp_path / "variable" / "1bxn.cif"
        assert find_or_fetch("1bxn", tmp_path / "argument") == tmp_path / "argument" / "1bxn.cif"

    def test_before_the_cache(self, tmp_path: Path, cache: Path, no_network: None) -> None:
        cache.mkdir()
        (cache / "1bxn.cif.gz").write_bytes(CIF_GZ)
        assert find_or_fetch("1bxn", tmp_path) == cache / "1bxn.cif.gz"
        (tmp_path / "pdb1bxn.ent").touch()
        assert find_or_fetch("1bxn", tmp_path) == tmp_path / "pdb1bxn.ent"

    def test_mmcif_before_pdb(self, tmp_path: Path, no_network: None) -> None:
        for name in ("1bxn.pdb", "1bxn.cif.gz", "1bxn.ent"):
            (tmp_path / name).touch()
        assert find_or_fetch("1bxn", tmp_path) == tmp_path / "1bxn.cif.gz"

    def test_other_names(self, tmp_path: Path, no_network: None) -> None:
        (tmp_path / "4v4r_30S.pdb.gz").touch()
        (tmp_path / "folder.cif").mkdir()
        assert find_or_fetch("4v4r_30s", tmp_path) == tmp_path / "4v4r_30S.pdb.gz"
        for name in ("4v4r_50S", "folder", "bxn1", "1bx", "pdb_1bxn", "../1bxn", "1bx²", "", "1bxn\n"):
            with pytest.raises(CryodenError, match=r"no structure file of this name.*not a PDB ID"):
                find_or_fetch(name, tmp_path)

    def test_not_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
        with pytest.raises(CryodenError, match="elsewhere is not a folder"):
            find_or_fetch("1bxn", tmp_path / "elsewhere")
        monkeypatch.setenv("CRYODEN_STRUCTURE_DIR", str(tmp_path / "elsewhere"))
        with pytest.raises(CryodenError, match=r"elsewhere is not a folder.*CRYODEN_STRUCTURE_DIR"):
            find_or_fetch("1bxn")
