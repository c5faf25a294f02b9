"""The `sclm-hf` command line."""

import sys

from ..errors import MissingDependencyError, require


def run() -> None:
    """Run the command, or say what to install where the extra `cli` is missing."""
    try:
        for module in ("typer", "rich"):
            require(module, extra="cli")
    except MissingDependencyError as error:
        sys.exit(f"Error: {error}")
    from .main import app

    app()
