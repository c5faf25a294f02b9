"""Compare each family with the recorded numbers of its original, and write how far apart they are.

`python model_cards/parity.py` writes `model_cards/parity.json`, from which `render.py` makes the tables of the cards;
`python model_cards/parity.py scgpt uce` does so for some families. It runs the tests of recorded
numbers, `tests/modeling/<family>/test_golden_<family>.py`, and looks at what they compare: a test that fails stops it.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).parent / "parity.json"


class Recorder:
    """A plugin of pytest that notes what `assert_close` and numpy's comparisons were given."""

    def __init__(self) -> None:
        self.found = defaultdict(list)
        self.test = ""
        torch.testing.assert_close = self._noting(torch.testing.assert_close)
        for name in ("assert_allclose", "assert_array_equal"):
            setattr(np.testing, name, self._noting(getattr(np.testing, name)))

    def pytest_runtest_setup(self, item) -> None:
        """Which test runs."""
        self.test = item.originalname.removeprefix("test_").replace("_", " ")

    def _noting(self, compare):
        def noted(actual, expected, *arguments, **settings):
            compare(actual, expected, *arguments, **settings)
            try:
                one, other = (np.asarray(x.detach() if torch.is_tensor(x) else x) for x in (actual, expected))
            except (TypeError, ValueError):
                return
            if one.dtype.kind in "fiub" and one.shape == other.shape and one.size:
                self.found[self.test].append((one.astype(float), other.astype(float), one.dtype.kind == "f"))

        return noted

    def rows(self) -> list[dict]:
        """What was compared in each test, in the order of the tests."""
        rows = []
        for test, pairs in self.found.items():
            if test.startswith("sampled"):
                # frequencies of draws against probabilities, no recorded numbers
                continue
            gaps = [
                np.abs(one - other)[np.isfinite(one) & np.isfinite(other)].max(initial=0) for one, other, _ in pairs
            ]
            sizes = [np.abs(other[np.isfinite(other)]).max(initial=0) for _, other, _ in pairs]
            rows.append(
                {
                    "what": test,
                    "arrays": len(pairs),
                    "numbers": int(sum(one.size for one, _, _ in pairs)),
                    "difference": float(f"{max(gaps):.1e}"),
                    "largest": float(f"{max(sizes):.2g}"),
                    "exact": not any(is_float for *_, is_float in pairs),
                }
            )
        return rows


def compare_family(family: str) -> list[dict]:
    """The rows of a family.

    Raises:
        SystemExit: a number differs by more than the test allows.
    """
    recorder = Recorder()
    file = ROOT / "tests" / "modeling" / family / f"test_golden_{family}.py"
    code = pytest.main([str(file), "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"], plugins=[recorder])
    if code:
        sys.exit(f"The comparison of {family} failed.")
    return recorder.rows()


def main(families: list[str]) -> None:
    """Compare a family and write its rows into the file; several each in a process of its own, as tests expect."""
    if len(families) != 1:
        files = sorted(ROOT.glob("tests/modeling/*/test_golden_*.py"))
        for family in families or [file.stem.removeprefix("test_golden_") for file in files]:
            subprocess.run([sys.executable, __file__, family], check=True)
        return
    stored = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    stored |= {families[0]: compare_family(families[0]), "versions": {"torch": torch.__version__}}
    FILE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.chdir(ROOT)
    # as `make test` runs: sums of several threads round otherwise
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
