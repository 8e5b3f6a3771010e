import subprocess
import sys

import gemmi
import mrcfile
import numpy as np
import pytest

from cryoden.errors import CryodenError
from cryoden.particles import DensityMap, Structure, is_archive_entry, load_particle


@pytest.fixture
def folder(tmp_path):
    """A structure of one carbon and one hydrogen, and a density map."""
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    chain, residue = gemmi.Chain("A"), gemmi.Residue()
    residue.name, residue.seqid = "LIG", gemmi.SeqId("1")
    for element in "CH":
        atom = gemmi.Atom()
        atom.name, atom.element = element, gemmi.Element(element)
        residue.add_atom(atom)
    chain.add_residue(residue)
    structure[0].add_chain(chain)
    structure.cell, structure.spacegroup_hm = gemmi.UnitCell(50, 50, 50, 90, 90, 90), "P 1"
    structure.setup_entities()
    text = structure.make_pdb_string()
    (tmp_path / "4v4r_30S.pdb").write_text(text)
    (tmp_path / "1abc.ENT").write_text(text)
    with mrcfile.new(tmp_path / "blob.mrc") as mrc:
        mrc.set_data(np.ones((4, 4, 4), np.float32))
        mrc.voxel_size = 10.0
    return tmp_path


@pytest.mark.parametrize(("spec", "name", "kind"), [
    ("1abc", "1abc", Structure), ("4v4r_30S", "4v4r_30S", Structure), ("{}/1abc.ENT", "1abc", Structure),
    ("{}/4v4r_30S.pdb", "4v4r_30S", Structure), ("{}/blob.mrc", "blob", DensityMap),
    ("{}/blob.mrc:2600", "blob", DensityMap), ("phantom:7", "phantom:7", Structure),
])  # fmt: skip
def test_spec(folder, spec, name, kind):
    particle = load_particle(spec.format(folder), structure_dir=folder)
    assert isinstance(particle, kind)
    assert particle.name == name


def test_arguments_reach_the_structure(folder):
    assert load_particle("1abc", structure_dir=folder).model.count_atom_sites() == 1
    assert load_particle("1abc", structure_dir=folder, hydrogens=True).model.count_atom_sites() == 2
    with pytest.raises(CryodenError, match="no atoms are left"):
        load_particle("1abc", structure_dir=folder, ligands=False)
    with pytest.raises(CryodenError, match="no assembly '3'"):
        load_particle("1abc", structure_dir=folder, assembly="3")


@pytest.mark.parametrize("spec", ["phantom:", "phantom:x", "phantom:-1", "phantom:1.5"])
def test_phantom_needs_a_whole_number(spec):
    with pytest.raises(CryodenError, match=f"{spec}: .*such as phantom:7"):
        load_particle(spec)


@pytest.mark.parametrize("file", ["none.cif", "none.pdb.gz", "none.mrc", "none.map.gz"])
def test_missing_file(tmp_path, file):
    with pytest.raises(CryodenError, match=file):
        load_particle(str(tmp_path / file))


def test_name_that_is_nothing(folder):
    with pytest.raises(CryodenError, match="ribosome"):
        load_particle("ribosome", structure_dir=folder)


@pytest.mark.parametrize(("spec", "expected"), [
    ("1bxn", True), ("4v4r_30S", True), ("phantom:7", False), ("a/1bxn.cif.gz", False), ("x.PDB", False),
    ("map.mrc", False), ("map.map.gz", False), ("1bxn.pdb1", False), ("1bxn.pdb12.gz", False),
])  # fmt: skip
def test_is_archive_entry(spec, expected):
    assert is_archive_entry(spec) == expected


def test_a_file_that_is_there_is_a_file_whatever_its_name(tmp_path):
    assert is_archive_entry(f"{tmp_path}/model")
    (tmp_path / "model").touch()
    assert not is_archive_entry(f"{tmp_path}/model")


def test_a_particle_is_the_same_whatever_it_is_called(folder):
    (folder / "other.pdb").write_bytes((folder / "1abc.ENT").read_bytes())
    (folder / "other.mrc").write_bytes((folder / "blob.mrc").read_bytes())
    atoms, same_atoms, blob, same_blob, phantom = (
        load_particle(spec.format(folder), structure_dir=folder)
        for spec in ("1abc", "{}/other.pdb", "{}/blob.mrc", "{}/other.mrc:26", "phantom:1")
    )
    assert atoms.is_same(same_atoms)
    assert blob.is_same(same_blob)
    assert not any(one.is_same(other) for one, other in ((atoms, phantom), (atoms, blob), (blob, atoms)))
    moved = load_particle("phantom:1")
    moved.model[0][0][0].pos.x += 0.5
    assert not phantom.is_same(moved)
    assert not blob.is_same(DensityMap("blob", blob.data, 5.0))


def test_import_is_light():
    heavy = {"lightning", "wandb", "torch", "pooch"}
    code = f"import sys, cryoden.particles; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_map_may_come_with_its_mass(folder):
    assert load_particle(f"{folder}/blob.mrc").mass is None
    assert load_particle(f"{folder}/blob.mrc:2600.5").mass == 2600.5
    assert not is_archive_entry("blob.mrc:2600")
    with pytest.raises(CryodenError, match=r"blob.mrc: got a mass of 0 kDa; allowed is a number above 0"):
        load_particle(f"{folder}/blob.mrc:0")
