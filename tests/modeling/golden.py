"""Where the recorded numbers of the original implementations lie."""

from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
