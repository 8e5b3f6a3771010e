from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from cryoden.errors import CryodenError
from cryoden.pictures import central_slice, grey_scale, save_figure, scale_bar, slice_figure


def test_slices_show_the_planes_they_name() -> None:
    volume = np.zeros((8, 10, 12), np.float32)
    volume[4, 2, 9] = 1  # z is the middle one: only the xy slice shows it, at x = 9, y = 2
    figure = slice_figure({"only": volume}, 10.0)
    xy, xz, yz = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[:3])
    assert np.unravel_index(xy.argmax(), xy.shape) == (2, 9)
    assert xz.shape == (8, 12)
    assert yz.shape == (10, 8)
    assert xz.max() == yz.max() == 0


def test_yz_has_z_across() -> None:
    volume = np.zeros((8, 10, 12))
    volume[1, 3, 6] = 1
    assert np.argwhere(central_slice(volume, 2)).tolist() == [[3, 1]]


@pytest.mark.parametrize(
    ("width", "voxel_size", "text"), [(64, 10.0, "20 nm"), (64, 1.0, "2 nm"), (928, 13.48, "200 nm"), (8, 2.0, "1 nm")]
)
def test_a_scale_bar_is_as_long_as_it_says(width: int, voxel_size: float, text: str) -> None:
    axis = Figure().subplots()
    scale_bar(axis, width, voxel_size)
    assert axis.texts[0].get_text() == text
    start, end = axis.lines[0].get_xdata()
    assert (end - start) * voxel_size == pytest.approx(10 * float(text.split()[0]))
    assert 0 < start < end < 0.7 * width


def test_the_grey_scale_is_that_of_density_above_a_background() -> None:
    volume = np.zeros((20, 20, 20))
    volume[5:9, 5:9, 5:9] = 2.0
    assert grey_scale(volume) == pytest.approx((-0.7, 2.0))
    assert grey_scale(np.zeros((4, 4, 4))) == (-0.35, 1.0)


def test_figures_are_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    save_figure(Figure(), path, overwrite=False)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(CryodenError, match=r"a\.png exists; choose another name or allow overwriting"):
        save_figure(Figure(), path, overwrite=False)
    save_figure(Figure(), path, overwrite=True)
    assert [each.name for each in path.parent.iterdir()] == ["a.png"]


def test_an_svg_is_the_same_for_the_same_figure(tmp_path: Path) -> None:
    made = []
    for name in ("a.svg", "b.svg"):
        save_figure(slice_figure({"ones": np.eye(8)[None].repeat(8, 0)}, 10.0), tmp_path / name, overwrite=False)
        made.append((tmp_path / name).read_text())
    assert made[0] == made[1]
