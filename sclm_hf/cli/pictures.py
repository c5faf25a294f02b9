"""`--plot`: a picture beside the file that a verb writes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..tasks.files.file_to_file import Written


@dataclass(frozen=True)
class Picture:
    """What a command draws of the file that it wrote.

    Attributes:
        what: what is drawn, for the help.
        draw: draws it: the file and the name of its record -> axes.
        needs: name of a setting of yes or no without which there is nothing to draw.
    """

    what: str
    draw: "Callable[[Path, str], Axes]"
    needs: str | None = None

    @property
    def option(self) -> Any:
        """The type of the parameter `plot` of the command."""
        text = f"Image to write too, `.png`, `.pdf` or `.svg`: {self.what}; of one file."
        return Annotated[Path | None, typer.Option("--plot", help=text)]

    def drawn(
        self,
        run: "Callable[[], Sequence[Written]]",
        plot: Path,
        settings: Mapping[str, Any],
        *,
        output: Path,
        read: Sequence[Path | None],
        overwrite: bool,
    ) -> "Callable[[], Sequence[Written]]":
        """`run`, and then the picture.

        Args:
            run: writes the file.
            plot: the image.
            settings: those of the verb.
            output: the file that is written.
            read: files that are read.
            overwrite: whether the image may be replaced.

        Raises:
            ConfigurationError: several files are written, there would be nothing to draw, or the image could not be
                written.
        """
        from ..errors import ConfigurationError
        from ..evaluation.plots.drawing import check_image, save_figure
        from .results import check_written

        if output.suffix not in (".h5ad", ".h5mu"):
            raise ConfigurationError(
                f"`--plot` draws the cells of one .h5ad file, and `{output}` is not named so: leave it out, or give "
                "one file."
            )
        if self.needs is not None and not settings[self.needs]:
            raise ConfigurationError(f"`--plot` draws what `--{self.needs}` finds: ask for both, or for neither.")
        check_written(plot, read=[*read, output], overwrite=overwrite)
        check_image(plot)

        def run_and_draw() -> "Sequence[Written]":
            written = run()
            for path, key in written:
                save_figure(self.draw(path, key).figure, plot)
            return written

        return run_and_draw


def draw_scores(titles: dict[str, str], first: str, xlabel: str) -> "Callable[[Path, str], Axes]":
    """What draws the scores of methods that a record holds, a panel for each score.

    Args:
        titles: name of a score -> title of its panel.
        first: the method that the others are compared with; it is dotted through all rows.
        xlabel: what else is to be said.
    """

    def draw(path: Path, key: str) -> "Axes":
        from ..evaluation.plots import plot_methods
        from ..tasks.files.results import read_record

        scores = read_record(path, key)[0]["scores"]
        rows = _rows_of_columns if "method" in scores else _rows_of_mappings
        panels = {title: sorted(rows(scores, name), key=lambda row: row[0] != first) for name, title in titles.items()}
        return plot_methods(panels, xlabel)[0]

    return draw


def _rows_of_columns(scores: dict[str, Any], name: str) -> list[tuple[str, float, float, float]]:
    """From a table with intervals."""
    columns = (scores[one] for one in ("method", name, f"{name}_low", f"{name}_high"))
    return [(str(method), *map(float, numbers)) for method, *numbers in zip(*columns, strict=True)]


def _rows_of_mappings(scores: dict[str, Any], name: str) -> list[tuple[str, float, float, float]]:
    """From numbers without intervals."""
    return [(method, *[float(numbers[name])] * 3) for method, numbers in scores.items()]
