"""DNA of peaks, from a FASTA file of the genome that is read once, chromosome by chromosome.

Libraries that index FASTA files want to write beside the genome, and refuse the gzip files that genomes come in.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import ConfigurationError
from ..peaks import Peak

UNKNOWN = 4
"""The number of a base that is not known; A, C, G and T are 0 to 3."""

NO_BASE = 5

PIECE = 2**20
"""Bytes of a line that are read at a time."""

MOST_UNPACKED = 100
"""Times its size that a packed genome may have unpacked; DNA has about four."""


def _table() -> np.ndarray:
    """(256,) byte -> number of the base; what the alphabet of FASTA has beside the four is not known."""
    table = np.full(256, NO_BASE, np.uint8)
    for letters, number in (("NRYKMSWBDHVX-", UNKNOWN), ("A", 0), ("C", 1), ("G", 2), ("TU", 3)):
        table[list((letters + letters.lower()).encode())] = number
    return table


_NUMBER_OF = _table()


def read_windows(genome: str | Path, peaks: Sequence[Peak], length: int) -> np.ndarray:
    """The bases around the middle of each peak.

    Args:
        genome: a FASTA file, `.fa` or `.fa.gz`, with the chromosomes of the peaks; lower case is read as upper.
        peaks: the peaks.
        length: bases of each.

    Returns:
        (peaks, length) uint8: 0 to 3 are A, C, G and T, 4 is not known, or beyond the ends of the chromosome.

    Raises:
        ConfigurationError: the file cannot be read, a chromosome is missing, or a peak ends beyond its chromosome.
    """
    of_chromosome: dict[str, list[int]] = {}
    for number, peak in enumerate(peaks):
        of_chromosome.setdefault(peak.chromosome, []).append(number)
    windows = np.full((len(peaks), length), UNKNOWN, np.uint8)
    names: dict[str, None] = {}
    for name, bases in _chromosomes(Path(genome), of_chromosome):
        if name in names:
            raise ConfigurationError(f"The genome `{genome}` holds {name!r} twice.")
        names[name] = None
        for number in of_chromosome.get(name, ()):
            windows[number] = _window(bases, peaks[number], length, genome)
    if missing := sorted(set(of_chromosome) - set(names)):
        peak = peaks[of_chromosome[missing[0]][0]]
        raise ConfigurationError(
            f"The genome `{genome}` lacks {len(missing):,} of the {len(of_chromosome):,} chromosomes of the peaks, "
            f"such as {missing[0]!r} of {peak.chromosome}:{peak.start}-{peak.end}; it has "
            f"{', '.join(list(names)[:5])}: give the genome that the peaks were called in, or leave these peaks out."
        )
    return windows


def _window(bases: np.ndarray, peak: Peak, length: int, genome: str | Path) -> np.ndarray:
    """(length,) bases, with unknown ones beyond the ends."""
    if peak.end > len(bases):
        raise ConfigurationError(
            f"The peak {peak.chromosome}:{peak.start}-{peak.end} ends beyond its chromosome, which has "
            f"{len(bases):,} bases in `{genome}`: is this the genome that the peaks were called in?"
        )
    start = (peak.start + peak.end) // 2 - length // 2
    first, last = max(start, 0), min(start + length, len(bases))
    window = np.full(length, UNKNOWN, np.uint8)
    window[first - start : last - start] = bases[first:last]
    return window


def _chromosomes(path: Path, wanted: dict[str, list[int]]) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each chromosome, up to the first blank, and its bases; of those not wanted none."""
    if not path.is_file():
        raise ConfigurationError(f"There is no genome `{path}`: name a FASTA file, `.fa` or `.fa.gz`, with `genome`.")
    name, lines = None, []
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in _pieces(file, path):
                if line.startswith(b">"):
                    if name is not None:
                        yield name, _bases(lines, name, path)
                    words = line[1:].split()
                    name, lines = words[0].decode("utf-8", "replace") if words else "", []
                elif name is None and line.strip():
                    raise ConfigurationError(f"`{path}` is no FASTA file: it must begin with `>` and a name.")
                elif name in wanted:
                    lines.append(line.strip())
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigurationError(f"The genome `{path}` cannot be read: {error}") from error
    if name is None:
        raise ConfigurationError(f"The genome `{path}` is empty.")
    yield name, _bases(lines, name, path)


def _pieces(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of a file, long ones in pieces."""
    left = path.stat().st_size * MOST_UNPACKED
    while piece := file.readline(PIECE):
        left -= len(piece)
        if left < 0:
            raise ConfigurationError(
                f"The genome `{path}` unpacks to more than {MOST_UNPACKED} times its size, as no DNA does: take the "
                "file that you have it from anew."
            )
        yield piece


def _bases(lines: list[bytes], name: str, path: Path) -> np.ndarray:
    """(bases,) their numbers."""
    letters = np.frombuffer(b"".join(lines), np.uint8)
    bases = _NUMBER_OF[letters]
    if (bases == NO_BASE).any():
        letter = chr(letters[bases == NO_BASE][0])
        raise ConfigurationError(f"{name!r} in the genome `{path}` holds {letter!r}, which stands for no base.")
    return bases
