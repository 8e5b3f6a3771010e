"""The verbs of the command line, one file each: `cryoden NAME` is the function NAME of NAME.py.

The first line of its docstring is what `cryoden --help` says of it; its signature and the whole docstring are
`cryoden NAME --help`; the lines that it yields are printed. A function of `*words` reads its words itself.
"""
