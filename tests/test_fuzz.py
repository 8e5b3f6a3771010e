"""Files that are broken at random: each is refused in one line, or read as something sound. Nothing else may happen.

What breaks them is drawn from a seed, so that a try can be had again by its number; `-m slow` draws others for longer.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.errors import CryodenError
from cryoden.inference.jobs import check_jobs
from cryoden.inference.star import star_jobs
from cryoden.modules.recipes import SimpleAE
from cryoden.particles import read_structure
from cryoden.particles.phantom.assembly import make_phantom
from cryoden.volume import Volume, measure, open_volume, write_volume

Sound = Callable[[Path], bytes]
Use = Callable[[Path], None]
ODD_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FC00000, 0x7F800000, 0x00FF0000)
ODD_WORDS = (
    *("", "0", "-1", "nan", "inf", "1e999", "9" * 30, "?", ".", "'", '"', ";", "#", "_", "data_", "loop_", "../../x"),
    *("/etc/passwd", "é", "\0", "\t", " " * 200, "a" * 5000, "ATOM", "MODEL", "ENDMDL", "_atom_site.id"),
)


def broken(content: bytes, draw: random.Random, text: bool) -> bytes:
    """The same with one to four things wrong with it."""
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(content) + 1)
        kind = draw.randrange(6)
        if kind == 0:  # cut short
            content = content[: place if draw.random() < 0.3 else max(0, len(content) - draw.randint(1, 64))]
        elif kind == 1:  # a part twice, or not at all
            stop = min(len(content), place + draw.randint(1, 200))
            content = content[:place] + content[place:stop] * draw.choice((0, 2)) + content[stop:]
        elif text:  # another word
            lines = content.split(b"\n")
            row = draw.randrange(len(lines))
            words = lines[row].split(b" ")
            words[draw.randrange(len(words))] = draw.choice(ODD_WORDS).encode()
            lines[row] = b" ".join(words)
            content = b"\n".join(lines)
        elif kind == 2:  # a flipped bit
            content = (
                content[:place]
                + bytes(b ^ 1 << draw.randrange(8) for b in content[place : place + 1])
                + content[place + 1 :]
            )
        else:  # another number, mostly where a header is
            place = draw.randrange(0, min(len(content), 1024 if kind < 5 else len(content)) + 1, 4)
            number = draw.choice(ODD_NUMBERS).to_bytes(4, draw.choice(("little", "big")))
            content = content[:place] + number + content[place + 4 :]
    return content


def a_map(folder: Path) -> bytes:
    with mrcfile.new(folder / "sound", overwrite=True) as file:
        file.set_data(np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32))
        file.voxel_size = 10.0
    return (folder / "sound").read_bytes()


def use_map(path: Path) -> None:
    volume = open_volume(path)
    assert volume.data.nbytes < 1e5
    if not measure(volume.data).bad:
        target = path.with_name("written.mrc")
        write_volume(target, volume, overwrite=True)
        again = open_volume(target)
        np.testing.assert_array_equal(again.data, volume.data.astype(np.float32))
        assert again.voxel_size == pytest.approx(volume.voxel_size)


def a_tiff(folder: Path) -> bytes:
    write_volume(folder / "sound.tif", Volume(np.random.default_rng(0).normal(size=(6, 7, 8)), 10.0), overwrite=True)
    return (folder / "sound.tif").read_bytes()


def a_pdb(folder: Path) -> bytes:
    structure = make_phantom(1)
    for number in reversed(range(20, len(structure[0][0]))):
        del structure[0][0][number]
    for number in reversed(range(1, len(structure[0]))):
        structure[0].remove_chain(structure[0][number].name)
    return structure.make_pdb_string().encode()


def a_cif(folder: Path) -> bytes:
    return gemmi.read_pdb_string(a_pdb(folder).decode()).make_mmcif_document().as_string().encode()


def use_structure(path: Path) -> None:
    structure = read_structure(path, assembly=None)
    assert 0 <= structure.diameter < 1e6
    assert "\n" not in structure.summary()


def a_model(folder: Path) -> bytes:
    export_weights(SimpleAE(channels=1), folder / "sound.safetensors", overwrite=True)
    return (folder / "sound.safetensors").read_bytes()


def use_model(path: Path) -> None:
    denoiser = load_denoiser(path)
    given = torch.linspace(0, 1, 16**3).reshape(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert denoiser(given).isfinite().all()


def a_star(folder: Path) -> bytes:
    names = ["TS_01", "TS_02", '"TS 03"']
    for name in names:
        for half in ("1", "2"):
            (folder / f"{name.strip(chr(34))}_{half}.mrc").touch()
    rows = "\n".join(f"{n} {n.strip(chr(34)).replace(' ', '')}_1.mrc TS_01_2.mrc 3.42" for n in names)
    head = "\n".join(f"_{name} #{i}" for i, name in enumerate(
        ("rlnTomoName", "rlnTomoReconstructedTomogramHalf1", "rlnTomoReconstructedTomogramHalf2", "rlnVoltage"), start=1
    ))  # fmt: skip
    return f"# version 50001\n\ndata_global\n\nloop_\n{head}\n{rows}\n\n".encode()


def use_star(path: Path) -> None:
    output = path.parent / "output"
    rows, _ = star_jobs(path, output)
    check_jobs(list(rows.values()), output)
    for job in rows.values():
        for result in job.results:
            assert result.resolve().is_relative_to(output.resolve())


KINDS: dict[str, tuple[Sound, Use, str, int]] = {
    "map": (a_map, use_map, "mrc", 300),
    "tiff": (a_tiff, use_map, "tif", 300),
    "pdb": (a_pdb, use_structure, "pdb", 600),
    "cif": (a_cif, use_structure, "cif", 600),
    "model": (a_model, use_model, "safetensors", 300),
    "star": (a_star, use_star, "star", 700),
}


def tried(kind: str, seed: int, content: bytes, folder: Path) -> str | None:
    """What is wrong with how a file was taken, of which this was the content before it was broken; None: nothing."""
    _, use, suffix, _ = KINDS[kind]
    path = folder / f"broken.{suffix}"
    path.write_bytes(broken(content, random.Random(f"{kind} {seed}"), text=kind in ("pdb", "cif", "star")))
    try:
        use(path)
    except CryodenError as error:
        told = str(error)
        return None if 10 < len(told) < 1000 and "\n" not in told else f"told {told!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_is_taken(kind: str, tmp_path: Path) -> None:
    sound, use, suffix, _ = KINDS[kind]
    path = tmp_path / f"sound.{suffix}"
    path.write_bytes(sound(tmp_path))
    use(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_refused_in_one_line_or_sound(kind: str, tmp_path: Path) -> None:
    sound, _, _, count = KINDS[kind]
    content = sound(tmp_path)
    bad = {seed: found for seed in range(count) if (found := tried(kind, seed, content, tmp_path))}
    assert not bad, f"{len(bad)} of {count}: {json.dumps(bad, indent=1)[:3000]}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_so_are_many_more(kind: str, tmp_path: Path) -> None:
    bad, content = {}, KINDS[kind][0](tmp_path)
    start, seed = time.monotonic(), 10**6
    while time.monotonic() < start + 120:
        seed += 1
        if found := tried(kind, seed, content, tmp_path):
            bad[seed] = found
    assert not bad, f"{len(bad)} of {seed - 10**6}: {json.dumps(bad, indent=1)[:3000]}"
