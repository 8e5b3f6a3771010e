import pytest

from cryoden.errors import CryodenError, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CryodenError("box: got 3"), "box: got 3"),
        (RuntimeError("size mismatch\n\tfor layer 1"), "RuntimeError: size mismatch for layer 1"),
        (RuntimeError("x" * 500), "RuntimeError: " + "x" * 300),
        (KeyError("network"), "KeyError: 'network'"),
    ],
)
def test_any_error_is_told_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line
