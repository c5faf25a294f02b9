"""What all tests of task-specific models expect."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Models so small and hardly trained may well tell cells apart badly, and say so."""
    ignored = pytest.mark.filterwarnings("ignore:The embeddings in .* hardly tell cells apart")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(ignored)
