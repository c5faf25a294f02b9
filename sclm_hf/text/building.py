"""Conversations become a folder of Parquet shards: what `sclm-hf corpus build --instructions` runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..cards import render
from ..corpora.building.build import hash_file
from ..corpora.building.dataset_card import size_category
from ..corpora.pipeline.window_reader import WindowReader
from ..errors import ConfigurationError, CorpusError, require
from ..files import read_json_object, sole_writer, write_text, written_whole
from ..logging import progress_bar

if TYPE_CHECKING:
    from .conversations import Conversations

MANIFEST_FILE = "instructions.json"
_STATE_FILE = "build.json"
_CARD_FILE = "README.md"


def build_conversations(
    conversations: "Conversations",
    folder: str | Path,
    *,
    shard_size: int = 16384,
    title: str | None = None,
    license: str = "unknown",
    description: str = "",
) -> dict[str, Any]:
    """Write the conversations of an epoch as Parquet shards with a dataset card.

    Each shard is written beside its place and moved there when it is complete; a build that was stopped goes on after
    the last complete shard when the same call is made again, and ends with the same rows. The manifest,
    `instructions.json`, comes last.

    Args:
        conversations: the conversations.
        folder: where to write; new, empty, or what an earlier call with the same cells and settings left.
        shard_size: most cells of a shard, rounded to whole windows of the corpus.
        title: title of the card; the folder's name by default.
        license: licence of the data, an identifier that the Hub knows.
        description: what the card says first.

    Returns:
        The manifest: `settings`, `n_rows`, and for each of `shards` its `file`, `n_rows` and `sha256`.

    Raises:
        ConfigurationError: `shard_size` is impossible, or `folder` holds something else.
        CorpusError: a cell cannot be read, or nothing can be written.
    """
    require("pyarrow.parquet", extra="corpora")
    require("datasets", extra="train")
    if shard_size < 1:
        raise ConfigurationError(f"`shard_size` (`--shard-size`) must be at least 1, got {shard_size}.")
    folder = Path(folder)
    build = _Build(conversations, folder, shard_size)
    with sole_writer(folder):
        manifest = build.begin()
        if (folder / MANIFEST_FILE).exists():
            return manifest
        build.run(manifest)
        if not manifest["n_rows"]:
            raise CorpusError("No cell of the corpus gives a question: see the warning about what they lack.")
        card = _card(manifest, build.example(), title or folder.resolve().name, license, description)
        write_text(folder / _CARD_FILE, card, CorpusError)
        write_text(folder / MANIFEST_FILE, json.dumps(manifest, indent=1) + "\n", CorpusError)
        (folder / _STATE_FILE).unlink()
    return manifest


class _Build:
    """One call of [`build_conversations`]."""

    def __init__(self, conversations: "Conversations", folder: Path, shard_size: int) -> None:
        corpus = conversations.corpus
        self.conversations, self.folder = conversations, folder
        self.schedule = corpus.schedule(corpus.group_size)
        self.windows_a_shard = max(1, shard_size // self.schedule.window_size)
        self.settings = {
            "sclm_hf": __version__,
            "cells": corpus.order_id(corpus.group_size),
            "files": [source.stamp for source in corpus.sources],
            "cells_a_shard": self.windows_a_shard * self.schedule.window_size,
            **conversations.record,
        }

    def begin(self) -> dict[str, Any]:
        """What an earlier call has written, as far as it is sound; refuses a folder with something else."""
        new = {"settings": json.loads(json.dumps(self.settings)), "n_rows": 0, "shards": []}
        for name in (MANIFEST_FILE, _STATE_FILE):
            if (self.folder / name).exists():
                earlier = read_json_object(self.folder / name, CorpusError)
                if earlier.get("settings") != new["settings"]:
                    raise ConfigurationError(
                        f"`{self.folder}` holds conversations made from other cells, settings or versions: remove it, "
                        "or name another folder."
                    )
                return earlier if name == MANIFEST_FILE else self._sound(earlier)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigurationError(f"`{self.folder}` is a file: name a new folder.")
        if self.folder.exists() and any(path.name != f".{_STATE_FILE}.tmp" for path in self.folder.iterdir()):
            raise ConfigurationError(f"`{self.folder}` is not empty: name a new folder.")
        return new

    def run(self, manifest: dict[str, Any]) -> None:
        """Write the shards that are missing."""
        corpus, windows = self.conversations.corpus, list(self.schedule.windows())
        self._save(manifest)
        reader = WindowReader(corpus, self.schedule, 0)
        starts = range(0, len(windows), self.windows_a_shard)
        with progress_bar(total=len(starts), desc="Writing conversations", unit=" shards") as bar:
            for number, start in enumerate(starts):
                if number >= len(manifest["shards"]):
                    shard = self._write(number, windows[start : start + self.windows_a_shard], reader)
                    manifest["shards"].append(shard)
                    manifest["n_rows"] += shard["n_rows"]
                    self._save(manifest)
                bar.update(1)

    def example(self) -> dict[str, Any] | None:
        """The first conversation."""
        return next(iter(self.conversations.to_dataset()), None)

    def _write(self, number: int, windows: list[int], reader: WindowReader) -> dict[str, Any]:
        from pyarrow import Table, parquet

        from .dataset import FEATURES

        file, n_rows = f"data/{number:05d}.parquet", 0
        with (
            written_whole(self.folder / file, CorpusError) as path,
            parquet.ParquetWriter(path, FEATURES.arrow_schema, compression="zstd") as writer,
        ):
            for window in windows:
                batches = reader.all_batches(window)
                rows = [row for batch in batches for row in self.conversations.rows(batch, reader.epoch)]
                writer.write_table(Table.from_pylist(rows, schema=FEATURES.arrow_schema))
                n_rows += len(rows)
        return {"file": file, "n_rows": n_rows, "sha256": hash_file(self.folder / file)}

    def _sound(self, earlier: dict[str, Any]) -> dict[str, Any]:
        """The shards at the beginning that are there as they were written."""
        sound = []
        for number, shard in enumerate(earlier["shards"]):
            path = self.folder / f"data/{number:05d}.parquet"
            if not path.is_file() or hash_file(path) != shard["sha256"]:
                break
            sound.append(shard)
        return {**earlier, "shards": sound, "n_rows": sum(shard["n_rows"] for shard in sound)}

    def _save(self, manifest: dict[str, Any]) -> None:
        write_text(self.folder / _STATE_FILE, json.dumps(manifest), CorpusError)


def _card(manifest: dict[str, Any], example: dict[str, Any] | None, title: str, license: str, description: str) -> str:
    import yaml

    header = {
        "license": license,
        "pretty_name": title,
        "task_categories": ["text-generation"],
        "tags": ["biology", "single-cell", "transcriptomics", "instruction-tuning", "sclm_hf"],
        "size_categories": [size_category(manifest["n_rows"])],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}], "default": True}
        ],
    }
    settings = manifest["settings"]
    facts = {
        "conversations": f"{manifest['n_rows']:,}",
        "task": settings["task"],
        "wordings": settings["templates"],
        "columns": ", ".join(f"{slot} from `{column}`" for slot, column in settings["columns"].items()),
        "the same for all": ", ".join(f"{slot}: {text}" for slot, text in settings["fixed"].items()),
        "control": settings["control"],
        "cells of a question share": ", ".join(settings["match"]),
        "seed": settings["seed"],
        "licence": license,
        "written by": f"sclm_hf {settings['sclm_hf']}",
    }
    rows = [(name, value) for name, value in facts.items() if value not in (None, "")]
    return (
        render(
            "instructions_card",
            header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
            title=title,
            description=description,
            facts=rows,
            example=example,
        )
        + "\n"
    )
