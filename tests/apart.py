"""The command in a process of its own, which begins as a copy of one that has imported what takes long."""

import atexit
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["tests.warm"])


class Command:
    """`cryoden WORDS`, at work in a folder; it may begin no workers, which would be those of all.

    Args:
        folder: where it runs, and where Python does not look for modules by itself: the command is a script elsewhere.
        words: of the command line.
        limit: bytes beyond which no file may grow: what a full disk does, as seen by one process.
    """

    def __init__(self, folder: Path, *words: str, limit: int | None = None) -> None:
        self._told = TemporaryDirectory()
        self._words = words
        self._process = APART.Process(
            target=_begin, args=(folder, words, limit, Path(self._told.name), dict(os.environ))
        )
        self._process.start()

    @property
    def works(self) -> bool:
        """Whether it has not ended."""
        return self._process.exitcode is None

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def finish(self) -> CompletedProcess[str]:
        """Wait for its end, for at most five minutes."""
        self._process.join(300)
        out, err = (Path(self._told.name, name).read_text() for name in ("1", "2"))
        assert not self.works, out + err
        return CompletedProcess(self._words, self._process.exitcode or 0, out, err)


def cryoden(folder: Path, *words: str, limit: int | None = None) -> CompletedProcess[str]:
    """Run a `Command` to its end."""
    return Command(folder, *words, limit=limit).finish()


def _begin(folder: Path, words: tuple[str, ...], limit: int | None, told: Path, environment: dict[str, str]) -> None:
    from cryoden.cli import main

    os.environ.clear()
    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(os.open(told / str(number), os.O_WRONLY | os.O_CREAT, 0o600), number)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    os.chdir(folder)
    sys.path = [path for path in sys.path if path not in ("", str(folder))]
    sys.argv = ["cryoden", *words]
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # which a process of this kind leaves out
