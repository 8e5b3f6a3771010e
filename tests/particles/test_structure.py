import gzip
import logging
import os
import pickle
import re
from pathlib import Path

import gemmi
import numpy as np
import pytest

from cryoden.errors import CryodenError
from cryoden.particles.structure import Structure, read_structure

STRUCTURES = os.environ.get("CRYODEN_STRUCTURE_DIR")
needs_structures = pytest.mark.skipif(STRUCTURES is None, reason="CRYODEN_STRUCTURE_DIR is not set")


def atom(name, position, *, altloc="\0", occupancy=1.0):
    atom = gemmi.Atom()
    atom.name, atom.pos, atom.altloc, atom.occ = name, gemmi.Position(*position), altloc, occupancy
    atom.element = gemmi.Element(name if name in ("ZN", "NA", "CL", "FE", "PT") else name[0])
    atom.b_iso, atom.aniso = 30.0, gemmi.SMat33f(0.4, 0.4, 0.4, 0, 0, 0)
    return atom


def residue(name, number, atoms):
    residue = gemmi.Residue()
    residue.name, residue.seqid = name, gemmi.SeqId(str(number))
    residue.het_flag = "A" if name in ("ALA", "SER") else "H"
    for each in atoms:
        residue.add_atom(each)
    return residue


def chain(name, x=0.0):
    """Two residues (4 + 4 atoms), a hydrogen, a second conformation of two atoms, a ligand and two waters."""
    chain = gemmi.Chain(name)
    backbone = [atom(n, (x + i, 0, 0)) for i, n in enumerate(("N", "CA", "C", "O"))]
    chain.add_residue(residue("ALA", 1, [*backbone, atom("H", (x, 1, 0))]))
    split = [atom("CB", (x + 4, y, 0), altloc=alt, occupancy=o) for alt, y, o in (("A", 5, 0.6), ("B", 9, 0.4))]
    split += [atom("OG", (x + 5, y, 0), altloc=alt, occupancy=o) for alt, y, o in (("A", 5, 0.6), ("B", 9, 0.4))]
    chain.add_residue(residue("SER", 2, [atom("N", (x + 4, 1, 0)), atom("CA", (x + 5, 1, 0)), *split]))
    chain.add_residue(residue("NAG", 3, [atom("C1", (x + 9, 0, 0))]))
    for number in (4, 5):
        chain.add_residue(residue("HOH", number, [atom("O", (x + 20, number, 0))]))
    return chain


@pytest.fixture
def deposited():
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    structure.cell = gemmi.UnitCell(100, 100, 100, 90, 90, 90)
    structure.spacegroup_hm = "P 1"
    for name, x in (("A", 0), ("B", 30)):
        structure[0].add_chain(chain(name, x))
    structure.setup_entities()
    return structure


BIOMT = """REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
"""


def with_assembly(structure, chains):
    return f"REMARK 350\nREMARK 350 BIOMOLECULE: 1\n{chains}\n{BIOMT}{structure.make_pdb_string()}"


def positions(structure):
    return np.array([a.pos.tolist() for c in structure.model for r in c for a in r])


@pytest.mark.parametrize(("hydrogens", "ligands", "expected"), [
    (False, True, 18), (True, True, 20), (False, False, 16), (True, False, 18),
])  # fmt: skip
def test_what_is_kept(deposited, hydrogens, ligands, expected):
    structure = Structure.from_gemmi(deposited, "x", hydrogens=hydrogens, ligands=ligands)
    assert structure.model.count_atom_sites() == expected
    kept = [atom for chain in structure.model for residue in chain for atom in residue]
    assert {a.occ for a in kept} == {1.0}
    assert {a.b_iso for a in kept} == {0.0}
    assert not any(a.aniso.nonzero() for a in kept)


def test_ions_and_heavy_atoms_of_crystals_are_left_out_and_cofactors_kept(deposited):
    def added(*ligands):
        structure = deposited.clone()
        for number, (name, atoms) in enumerate(ligands, start=10):
            sites = [atom(each, (50, number, i)) for i, each in enumerate(atoms)]
            structure[0][0].add_residue(residue(name, number, sites))
        return Structure.from_gemmi(structure, "x").model.count_atom_sites()

    assert added(("NA", ["NA"]), ("CL", ["CL"]), ("ZN", ["ZN"]), ("PT", ["PT"])) == 18
    assert added(("CPT", ["PT", "N1", "N2"])) == 18  # cisplatin
    assert added(("HEM", ["FE", "N1", "N2"]), ("ATP", ["P", "O1"])) == 18 + 5


def test_input_is_left_alone(deposited):
    before = deposited.make_pdb_string()
    Structure.from_gemmi(deposited, "x")
    assert deposited.make_pdb_string() == before


def test_first_conformation_is_kept_and_centroid_is_at_the_origin(deposited):
    found = positions(Structure.from_gemmi(deposited, "x", ligands=False))
    one = [(i, 0, 0) for i in range(4)] + [(4, 1, 0), (5, 1, 0), (4, 5, 0), (5, 5, 0)]
    expected = np.array([(x + shift, y, z) for shift in (0, 30) for x, y, z in one], dtype=float)
    np.testing.assert_allclose(found, expected - expected.mean(axis=0), atol=1e-5)


def test_diameter_and_mass(deposited):
    structure = Structure.from_gemmi(deposited, "x")
    assert structure.diameter == pytest.approx(2 * np.linalg.norm(positions(structure), axis=1).max())
    weights = {"C": 12.011, "N": 14.007, "O": 15.999}
    expected = 2 * (5 * weights["C"] + 2 * weights["N"] + 2 * weights["O"]) / 1000
    assert structure.mass == pytest.approx(expected, rel=1e-3)


def test_pickle(deposited):
    structure = Structure.from_gemmi(deposited, "x")
    copy = pickle.loads(pickle.dumps(structure))
    assert copy.name == "x"
    np.testing.assert_array_equal(positions(copy), positions(structure))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_reads_by_content(deposited, tmp_path, form, compress):
    text = deposited.make_pdb_string() if form == "pdb" else deposited.make_mmcif_document().as_string()
    path = tmp_path / "1abc.any.thing"
    path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())
    structure = read_structure(path)
    assert (structure.name, structure.model.count_atom_sites()) == ("1abc", 18)
    assert read_structure(path, "other").name == "other"


@pytest.mark.parametrize(("content", "message"), [
    (b"", "not a structure file.*empty"),
    (b" \n", "not a structure file.*empty"),
    (b"<!DOCTYPE html><html>\n<body>404</body></html>", "not a structure file.*no atoms.*<!DOCTYPE"),
    (b"hello world\n", "not a structure file.*no atoms.*hello"),
    (b"data_x\n_a b\n", "not a structure file.*no atoms"),
    (b"data_x\nloop_\n_a\n_b\n1 2 3\n", "not a structure file.*Wrong number of values"),
    (b"ATOM      1  N   ALA A", "not a structure file.*too short"),
    (bytes(range(256)), "not a structure file"),
    (gzip.compress(b"ATOM" * 100, mtime=0)[:20], "cut short"),
    (b"\x1f\x8bnonsense", "damaged"),
])  # fmt: skip
def test_refuses_what_is_no_structure(tmp_path, content, message):
    path = tmp_path / "1abc.pdb"
    path.write_bytes(content)
    with pytest.raises(CryodenError, match=message) as error:
        read_structure(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(CryodenError, match=r"none\.pdb: cannot be read: No such file"):
        read_structure(tmp_path / "none.pdb")


def test_only_water(deposited):
    for name in ("A", "B"):
        chain = deposited[0][name]
        for i in reversed(range(len(chain))):
            if chain[i].name != "HOH":
                del chain[i]
    with pytest.raises(CryodenError, match="x: no atoms are left"):
        Structure.from_gemmi(deposited, "x")
    with pytest.raises(CryodenError, match="x: no atoms"):
        Structure.from_gemmi(gemmi.Structure(), "x")


def test_unknown_assembly(deposited, tmp_path):
    with pytest.raises(CryodenError, match=r"x: no assembly '2'; allowed are null \(as deposited\) and: none"):
        Structure.from_gemmi(deposited, "x", assembly="2")
    path = tmp_path / "1abc.pdb"
    path.write_text(with_assembly(deposited, "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B"))
    with pytest.raises(CryodenError, match=r"1abc: no assembly '2'; allowed are null \(as deposited\) and: 1$"):
        read_structure(path, assembly="2")


def test_assembly_is_built_from_operators(deposited, tmp_path):
    second = BIOMT.replace("   1  ", "   2  ").replace("0.00000\n", "50.0000\n")
    text = with_assembly(deposited, "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B\n" + BIOMT + second.rstrip())
    path = tmp_path / "1abc.pdb"
    path.write_text(text.replace(second.rstrip() + "\n" + BIOMT, second))
    assert read_structure(path, assembly="1").model.count_atom_sites() == 36
    assert read_structure(path).model.count_atom_sites() == 18


@pytest.mark.parametrize(("chains", "n_atoms"), [("A, B", 18), ("A", 9)])
def test_smaller_assembly_is_told(deposited, tmp_path, caplog, chains, n_atoms):
    path = tmp_path / "1abc.pdb"
    path.write_text(with_assembly(deposited, f"REMARK 350 APPLY THE FOLLOWING TO CHAINS: {chains}"))
    with caplog.at_level(logging.WARNING, logger="cryoden"):
        assert read_structure(path, assembly="1").model.count_atom_sites() == n_atoms
    told = [line for line in caplog.messages if "macromolecule" not in line]
    if n_atoms == 18:
        assert told == []
    else:  # hydrogens and the second conformation count on both sides
        assert len(told) == 1
        assert "1abc: assembly '1' has 12 atoms, the deposited model 24" in told[0]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_wrapped_list_of_chains(tmp_path, caplog, end):
    names = "ABCDEFGHIJKLMNOPQRSTUVWXYZ12"
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    for i, name in enumerate(names):
        structure[0].add_chain(chain(name, 30 * i))
    head = f"REMARK 350 APPLY THE FOLLOWING TO CHAINS: {', '.join(names[:9])},           \n"
    text = with_assembly(structure, head + f"REMARK 350           {', '.join(names[9:])}            ")
    path = tmp_path / "1abc.pdb"
    path.write_text(text.replace("\n", end), newline="")
    assert read_structure(path, assembly="1").model.count_atom_sites() == 9 * len(names)
    assert all("macromolecule" in line for line in caplog.messages)


def test_assembly_with_absent_chain(deposited, tmp_path):
    path = tmp_path / "1abc.pdb"
    path.write_text(with_assembly(deposited, "REMARK 350 APPLY THE FOLLOWING TO CHAINS: Q"))
    with pytest.raises(CryodenError, match="1abc: assembly '1'"):
        read_structure(path, assembly="1")


@needs_structures
@pytest.mark.parametrize(("file", "assembly", "n_atoms", "kilodalton"), [
    ("1bxn.pdb.gz", None, 18144, 240), ("1mnf.pdb.gz", "1", 55552, 736), ("3gl1.pdb.gz", "1", 2935, 39),
    ("3wip.cif.gz", "2", 8191, 109), ("4v4r_30S.pdb.gz", None, 51918, 729), ("7pbl.pdb.gz", None, 15876, 212),
])  # fmt: skip
def test_real_structures(file, assembly, n_atoms, kilodalton):
    structure = read_structure(Path(STRUCTURES) / file, assembly=assembly)
    assert structure.model.count_atom_sites() == n_atoms
    assert structure.mass == pytest.approx(kilodalton, abs=1)


def pdb_line(serial: int, name: str, residue: str, number: int, xyz: tuple[float, float, float], element: str) -> str:
    place = "".join(f"{each:8.3f}" for each in xyz)
    return f"ATOM  {serial:5d} {name:<4} {residue:<4}A{number:4d}    {place}  1.00  0.00          {element:>2}"


PROTEIN = [pdb_line(i + 1, " CA", "ALA", i + 1, (3.8 * i, 1.0, -12.5), "C") for i in range(20)]


def read_lines(folder: Path, lines: list[str], *, end: str = "\n", mark: bytes = b"") -> Structure:
    path = folder / "a.pdb"
    path.write_bytes(mark + "".join(line + end for line in lines).encode())
    return read_structure(path)


class TestWhatOtherProgramsWrite:
    """Each is the same 20 atoms."""

    def same(self, found: Structure, folder: Path) -> None:
        expected = read_lines(folder, PROTEIN)
        assert found.model.count_atom_sites() == 20
        assert found.mass == expected.mass
        assert found.diameter == pytest.approx(expected.diameter)

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_line_ends_and_byte_order_marks(self, tmp_path, end, mark):
        self.same(read_lines(tmp_path, PROTEIN, end=end, mark=mark), tmp_path)

    @pytest.mark.parametrize("pushed", [True, False])
    def test_serial_numbers_of_six_digits(self, tmp_path, pushed):
        """Which push all that follows to the right, or take the blank behind them."""
        lines = [f"{line[:6]}{100_000 + i}{line[11 if pushed else 12 :]}" for i, line in enumerate(PROTEIN)]
        self.same(read_lines(tmp_path, lines), tmp_path)

    @pytest.mark.parametrize("water", ["HOH", "TIP3", "SOL", "WAT", "SPC", "T4P"])
    def test_water_is_known_by_what_it_is(self, tmp_path, water):
        lines = [
            pdb_line(30 + j, name, water, 100 + i, (9.0 * i, 9.0, j), name.strip()[0])
            for i in range(5)
            for j, name in enumerate((" OW", " HW1", " HW2"))
        ]
        self.same(read_lines(tmp_path, PROTEIN + lines), tmp_path)

    def test_markers_of_a_membrane_and_unknown_places_go_and_are_told(self, tmp_path, caplog):
        markers = [pdb_line(30 + i, " N", "DUM", 100 + i, (50.0 * i, 0, 15), "N") for i in range(7)]
        unknown = [pdb_line(40, " CB", "ALA", 20, (9999.0, 9999.0, 9999.0), "C")]
        self.same(read_lines(tmp_path, [*PROTEIN, *unknown, *markers]), tmp_path)
        assert "a: 7 marker atoms (DUM) left out" in caplog.text
        assert "a: 1 atoms at 9999 Å, where nothing is, left out" in caplog.text

    @pytest.mark.parametrize("place", ["     nan", " 1234567"])
    def test_coordinates_that_are_no_numbers_or_no_place(self, tmp_path, place):
        line = PROTEIN[3].replace(f"{11.4:8.3f}", place)
        found = r"a: atom CA of ALA 4 in chain A is at \[(nan|1234567.0), .* correct its line or"
        with pytest.raises(CryodenError, match=found):
            read_lines(tmp_path, [*PROTEIN[:3], line, *PROTEIN[4:]])

    def test_columns_that_nothing_needs_may_be_missing(self, tmp_path):
        expected = read_lines(tmp_path, PROTEIN)
        text = gemmi.read_structure(str(tmp_path / "a.pdb")).make_mmcif_document().as_string()
        for name in ("type_symbol", "label_alt_id", "label_asym_id", "id", "occupancy", "B_iso_or_equiv"):
            found = read_structure(without_column(text, name, tmp_path / "a.cif"))
            assert found.model.count_atom_sites() == 20
            assert found.mass == expected.mass
        for axis in "xyz":
            path = without_column(text, f"Cartn_{axis}", tmp_path / "a.cif")
            with pytest.raises(CryodenError, match=f"a.cif: not .*: its table of atoms has no column Cartn_{axis}$"):
                read_structure(path)

    def test_elements_are_told_by_the_names_of_atoms(self, tmp_path):
        """Columns 13 and 14 are for the element, so that a name that begins there would be calcium, neon or mercury."""
        names = ("CA", "NE", "HG1", "SG", "CD1", "OE1")
        lines = [pdb_line(i, name, "LYS", 1, (2.0 * i, 0, 0), "") for i, name in enumerate(names)]
        lines += [pdb_line(9, "SE", "MSE", 2, (20.0, 0, 0), "SE")]
        lines += [pdb_line(10, "CA", "CA", 3, (30.0, 0, 0), "CA").replace("ATOM  ", "HETATM")]
        read = read_lines(tmp_path, lines)
        atoms = [atom.element.name for chain in read.model for residue in chain for atom in residue]
        assert atoms == ["C", "N", "S", "C", "O", "Se", "Ca"]  # hydrogen is left out, and calcium is calcium
        assert "elements guessed from names" in read.summary()

    def test_elements_of_all_models_that_are_kept_are_told(self, tmp_path):
        lines = [
            line
            for number in range(2)
            for line in (
                f"MODEL     {number + 1:4d}",
                *(pdb_line(i, "CA", "LYS", i, (3.8 * i, 40.0 * number, 0), "") for i in range(10)),
                "ENDMDL",
            )
        ]
        assert {site.atom.element.name for site in read_lines(tmp_path, lines).model.all()} == {"C"}

    def test_several_structures_in_one_file_are_refused_and_a_dictionary_beside_one_is_not(self, tmp_path):
        expected = read_lines(tmp_path, PROTEIN)
        text = gemmi.read_structure(str(tmp_path / "a.pdb")).make_mmcif_document().as_string()
        path = tmp_path / "b.cif"
        path.write_text(f"data_comp_list\n_chem_comp.id ALA\n{text}")
        assert read_structure(path).mass == expected.mass
        path.write_text(f"{text}\n{text.replace('data_', 'data_other', 1)}")
        with pytest.raises(CryodenError, match=r"b.cif: .* it holds 2 structures \(.*, other.*\); give each a file"):
            read_structure(path)

    @pytest.mark.parametrize(("step", "atoms", "told"), [
        (0.1, 20, "the first of 3 models in one place"), (40.0, 60, "3 models side by side taken together"),
    ])  # fmt: skip
    def test_models_in_one_place_are_an_ensemble_and_side_by_side_an_assembly(self, tmp_path, step, atoms, told):
        lines = []
        for number in range(3):
            places = [(3.8 * i, 1.0 + step * number, -12.5) for i in range(20)]
            lines += [
                f"MODEL     {number + 1:4d}",
                *(pdb_line(i, " CA", "ALA", i, place, "C") for i, place in enumerate(places)),
                "ENDMDL",
            ]
        read = read_lines(tmp_path, lines)
        assert read.model.count_atom_sites() == atoms
        assert told in read.summary()
        assert len({chain.name for chain in read.model}) == atoms // 20

    def test_what_is_no_macromolecule_is_doubted(self, tmp_path, caplog):
        read_lines(tmp_path, PROTEIN)
        assert "its mass is 0.24 kDa, not 5 to 100000; 100% of its atoms without hydrogen are carbon" in caplog.text
        caplog.clear()
        peptide = [
            pdb_line(4 * i + j, name, "ALA", i, (2.0 * i, 1.5 * j, 0), element)
            for i in range(120)
            for j, (name, element) in enumerate(((" N", "N"), (" CA", "C"), (" C", "C"), (" O", "O")))
        ]
        assert read_lines(tmp_path, peptide).summary() == "a: 480 atoms, 6.48 kDa, 1 chain, 238 Å across"
        assert not caplog.text
        read_lines(tmp_path, [*peptide, pdb_line(500, " C", "ALA", 200, (6000.0, 0, 0), "C")])
        assert re.search(r"is this a macromolecule\? it is \d+ Å across, more than 3000", caplog.text)


def without_column(text: str, name: str, path: Path) -> Path:
    document = gemmi.cif.read_string(text)
    document[0].find_mmcif_category("_atom_site.").loop.remove_column(f"_atom_site.{name}")
    path.write_text(document.as_string())
    return path
