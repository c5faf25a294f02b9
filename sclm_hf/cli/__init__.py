"""The `sclm-hf` command line."""

import sys
import warnings
from typing import Any

from ..errors import MissingDependencyError, SclmWarning, require


def run() -> None:
    """Run the command, or say what to install if the extra `cli` is missing."""
    try:
        for module in ("typer", "rich"):
            require(module, extra="cli")
    except MissingDependencyError as error:
        sys.exit(f"Error: {error}")
    from .main import app

    show_warnings_as_lines()
    app()


def show_warnings_as_lines() -> None:
    """Show our own warnings as one line each, without the line of code that Python adds."""
    show = warnings.showwarning

    def show_line(message: Warning, category: type[Warning], *place: Any) -> None:
        if issubclass(category, SclmWarning):
            print(f"Warning: {message}", file=sys.stderr)
        else:
            show(message, category, *place)

    warnings.showwarning = show_line
