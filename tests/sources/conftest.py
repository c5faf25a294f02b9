"""The small files and the small processor of the tests of corpora."""

from ..corpora.conftest import folder, processor  # noqa: F401
