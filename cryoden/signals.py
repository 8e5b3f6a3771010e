"""Being told to stop, by Ctrl-C or by a cluster: work ends as after an error, so that what it had begun is cleared."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """Somebody told this process to stop.

    Args:
        number: Of the signal.

    Attributes:
        told: What whoever was at work has to say of it: what was kept, and how to go on; follows "stopped by SIGTERM".
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.told = ""

    @property
    def code(self) -> int:
        """The exit code that shells and clusters know: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}" + self.told


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, SIGTERM and SIGINT raise `Stopped`, unless they were to be ignored, as `nohup` wants it."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        listen()
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def listen() -> None:
    """Raise `Stopped` on SIGTERM and SIGINT from now on, whatever a library has set: what comes second has to wait."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a copy of this process, such as one that loads data, ends as any other would
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in _NUMBERS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    if threading.current_thread() is threading.main_thread():  # Python lets no other
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop)
