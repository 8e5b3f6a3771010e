"""Convolutions computed otherwise than torch computes them, mostly on a CPU; `plain_convolutions` turns it all off."""

from cryoden.networks.cpu.switch import plain_convolutions

__all__ = ["plain_convolutions"]
