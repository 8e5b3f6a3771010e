"""Runs the tutorials while the pages are built, so that what they show is what the program does today.

A tutorial is a page of docs/tutorials/. Its `bash` and `python` blocks run in one folder, in their order; what each
prints stands beneath it, and a picture that the page shows is taken from the folder. A block that fails ends the build.
"""

import functools
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[[^]]*\]\(([\w./-]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put what the tutorials print, and the pictures they make, among the files of the site."""
    pages = [file for file in files.documentation_pages() if file.src_uri.startswith("tutorials/")]
    with ThreadPoolExecutor() as pool:  # beside each other: each has its own folder and processes
        made = list(pool.map(run, [page.content_string for page in pages]))
    for page, (content, pictures) in zip(pages, made, strict=True):
        page.content_string = content
        for name, content in pictures.items():
            if f"tutorials/{name}" in files.src_uris:
                raise PluginError(f"{page.src_uri}: another tutorial has a picture {name}; give it another name")
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


@functools.cache  # `mkdocs serve` builds anew whenever any page changes
def run(text: str) -> tuple[str, dict[str, bytes]]:
    """Run the blocks of a page.

    Returns:
        The page with what each block printed beneath it, and the pictures it shows, by name.

    Raises:
        PluginError: a block failed, or made no picture of a name that the page shows.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = BLOCK.sub(lambda block: block[0] + _printed(block[1], block[2], folder), text)
        try:
            return told, {name: Path(folder, name).read_bytes() for name in PICTURE.findall(text)}
        except OSError as error:
            raise PluginError(f"a tutorial shows a picture that it does not make: {error}") from error


def _printed(language: str, code: str, folder: str) -> str:
    """What a block prints, as a block of its own."""
    command = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where this Python's cryoden is
    environment = {**os.environ, "PATH": here, "COLUMNS": "100", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [*command, code], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise PluginError(f"a tutorial's block failed with exit code {done.returncode}:\n{code}\n{done.stdout}")
    return f"\n```text\n{done.stdout.strip()}\n```\n" if done.stdout.strip() else ""
