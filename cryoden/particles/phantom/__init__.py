"""Phantoms: procedural protein assemblies, so that everything works offline, on any number of particles.

A phantom is made as a protein is made, from the inside out. Helices and strands with ideal bond lengths,
angles and torsions are laid out as the layers or the barrel of a domain; loops with the same geometry join them;
domains dock into a protomer; the protomer, into a ring or two stacked rings; side chains of a random sequence
fill the space between. The result is an ordinary gemmi structure.
"""

from cryoden.particles.phantom.assembly import make_domain, make_phantom, phantom

__all__ = ["make_domain", "make_phantom", "phantom"]
