"""Value encodings: compiled kernels that turn rows of a CSR matrix into arrays of tokens.

One file per value encoding (`bins`, `rank`, `continuous`, …), which ends with its [`Encoding`]; beside them what they
share: `keys` (randomness), `cells` (reading rows, writing padded rows), `stored` (rows of a file), `sorting`, and
`kernels` (how all this is compiled). numpy in, numpy out, no torch.
"""

from .bins import BINS
from .chromosomes import CHROMOSOMES
from .continuous import CONTINUOUS
from .depth import DEPTH
from .encoding import Encoding
from .log_bins import LOG_BINS
from .rank import RANK
from .zscored import ZSCORED

ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding for encoding in (BINS, RANK, CONTINUOUS, DEPTH, LOG_BINS, CHROMOSOMES, ZSCORED)
}
"""Name -> value encoding."""
