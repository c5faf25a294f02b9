"""Damage to FASTA files."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .damage import FILES, Damage, on_bytes

MEMBER = 64 * 2**20
N_MEMBERS = 40


def _on_text(change: Callable[[bytes, np.random.Generator], bytes]) -> Callable:
    """Damage to what a genome says, packed or not."""

    def changed(content: bytes, generator: np.random.Generator) -> bytes:
        if content[:2] != b"\x1f\x8b":
            return change(content, generator)
        return gzip.compress(change(gzip.decompress(content), generator), mtime=0)

    return on_bytes(changed)


def _bomb(path: Path, generator: np.random.Generator, victim: Path) -> str | None:
    """A line of gigabytes in a file of megabytes."""
    if path.suffix != ".gz":
        return None
    start, member = gzip.compress(b">chr0\n", mtime=0), gzip.compress(b"A" * MEMBER, mtime=0)
    path.write_bytes(start + member * N_MEMBERS)
    return path.name


GENOMES = [
    *FILES,
    Damage("unpacks to gigabytes", _bomb, refused=True),
    Damage("packed twice", on_bytes(lambda content, generator: gzip.compress(content)), refused=True),
    Damage("no names", _on_text(lambda text, generator: text.replace(b">", b"")), refused=True),
    Damage("blanks before names", _on_text(lambda text, generator: text.replace(b"chr", b" chr"))),
    Damage("chromosomes twice", _on_text(lambda text, generator: text * 2), refused=True),
    Damage("a chromosome missing", _on_text(lambda text, generator: text[text.index(b">chr1") :]), refused=True),
    Damage("no bases", _on_text(lambda text, generator: b">chr0\n>chr1\n"), refused=True),
    Damage("proteins", _on_text(lambda text, generator: text.replace(b"A", b"Q")), refused=True),
    Damage("lines of Windows", _on_text(lambda text, generator: text.replace(b"\n", b"\r\n"))),
    Damage("in one line", _on_text(lambda text, generator: b">chr0 " + text.replace(b"\n", b"")), refused=True),
]
