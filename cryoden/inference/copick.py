"""copick projects on this machine: the tomograms of a type, and denoised ones where copick finds them as another type.

A project is a JSON file that names two folders, of what is given (static) and of what is made (overlay). In both a
tomogram is ExperimentRuns/RUN/VoxelSpacing10.000/TYPE.zarr, an OME-Zarr image. That is all that is needed of copick,
which itself needs zarr below 3, and so cannot be installed beside what reads OME-Zarr 0.5.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from cryoden.errors import CryodenError
from cryoden.inference.jobs import Job

_SCHEMES = ("local://", "file://")


def copick_jobs(path: Path, kind: str | None, output: Path | None) -> tuple[list[Job], Path]:
    """A job for each tomogram of a type, whose result is of the type TYPE-denoised.

    Args:
        path: The project's file.
        kind: The type of the tomograms, such as wbp.
        output: A folder for the results, laid out as an overlay; by default the project's own.

    Returns:
        The jobs, and the folder of their results.

    Raises:
        CryodenError: The file is no such project, is not on this machine, or has no tomogram of the type.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        roots = {name: told[name] for name in ("overlay_root", "static_root") if told.get(name)}
        where = {name: _folder(root) for name, root in roots.items()}
        overlay = output or where["overlay_root"]
    except OSError as error:
        raise CryodenError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CryodenError(
            f"{path} is no copick project on this machine: it needs an overlay_root, and may have a static_root, "
            f"that are local:// and a folder ({type(error).__name__}: {error})"
        ) from error
    found: dict[Path, Path] = {}  # place in the layout → file
    for root in where.values():
        for each in sorted(root.glob("ExperimentRuns/*/VoxelSpacing*/*.zarr")):
            found.setdefault(each.relative_to(root), each)
    kinds = sorted({place.stem for place in found if "_" not in place.stem})  # TYPE_FEATURE_features.zarr is another
    if kind not in kinds:
        asked = "no --tomo-type is given" if kind is None else f"no tomogram of type {kind}"
        raise CryodenError(f"{path}: {asked}; there are {', '.join(kinds) or 'none'}")
    jobs = []
    for place, file in found.items():
        if place.stem != kind:
            continue
        spacing = re.fullmatch(r"VoxelSpacing([0-9.]+)", place.parent.name)
        if spacing is None:
            raise CryodenError(f"{file}: its folder is to be called as copick does, such as VoxelSpacing10.000")
        result = (overlay / place).with_name(f"{kind}-denoised.zarr")
        jobs.append(Job(f"{place.parts[1]} ({place.parts[2]})", (file,), (result,), voxel_size=float(spacing[1])))
    return jobs, overlay


def _folder(root: str) -> Path:
    """The folder that a root names.

    Raises:
        ValueError: It is not on this machine.
    """
    for scheme in _SCHEMES:
        root = root.removeprefix(scheme)
    if "://" in root:
        raise ValueError(f"{root} is not on this machine")
    return Path(root)
