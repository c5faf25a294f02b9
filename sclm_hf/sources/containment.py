"""Nothing outside of the file or folder that the user named is read, or written, through links in it.

HDF5 follows external links, virtual datasets, external storage and links of user-defined kinds, file systems follow
symbolic links; anybody who makes a file or folder can point them at whatever its reader may read.
"""

import os
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from .stored_arrays import check_stored

_MOST_LEVELS, _MOST_GROUPS, _MOST_LINKS = 64, 20_000, 10**6
"""Groups within groups, groups counted as often as links lead to them, and links; AnnData have some ten of each."""


def refuse_links(file: Any, path: str | Path) -> None:
    """Refuse an open HDF5 file with a link that leads out of it.

    Args:
        file: an `h5py.File`.
        path: its path, for messages.

    Raises:
        CorpusError: there is an external link or a link of a user-defined kind, which the message names, or its
            groups have no end.
    """
    from h5py import h5l

    for name, kind in _links(file, path):
        if kind not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            what = "an external link" if kind == h5l.TYPE_EXTERNAL else "a link of a user-defined kind"
            raise _leads_out(path, f"/{os.fsdecode(name)}", what)


def refuse_datasets_elsewhere(file: Any, path: str | Path) -> None:
    """Refuse an open HDF5 file with a dataset whose values lie in other files.

    Args:
        file: an `h5py.File` that [`refuse_links`] let pass.
        path: its path, for messages.

    Raises:
        CorpusError: there is a virtual dataset or one with external storage; the message names it.
    """
    from h5py import h5d, h5l, h5o

    for name, kind in _links(file, path):
        found = h5o.open(file.id, name) if kind == h5l.TYPE_HARD else None
        if isinstance(found, h5d.DatasetID):
            _refuse_stored_elsewhere(found, path, f"/{os.fsdecode(name)}")


def refuse_unbounded(file: Any, path: str | Path) -> None:
    """Refuse an open HDF5 file that is larger, read as a whole, than it is on disk.

    For readers that follow every link and read every array, as `anndata.read_h5ad` does.

    Args:
        file: an `h5py.File`.
        path: its path, for messages.

    Raises:
        CorpusError: groups lead to one another in circles or again and again, or an array claims more than is stored.
    """
    import h5py

    waiting, n_groups = [(file, 0)], 0
    while waiting:
        group, depth = waiting.pop()
        n_groups += 1
        if depth > _MOST_LEVELS or n_groups > _MOST_GROUPS:
            raise _without_end(path, group.name)
        # what a link promises may be missing
        for element in filter(None, map(group.get, group)):
            if isinstance(element, h5py.Group):
                waiting.append((element, depth + 1))
            elif isinstance(element, h5py.Dataset):
                check_stored(element)


def refuse_stored_elsewhere(element: Any) -> None:
    """Refuse a dataset of h5py that lies elsewhere; any other element passes.

    For what was found by a reference, which `refuse_datasets_elsewhere` may miss, or is looked at before that.

    Raises:
        CorpusError: it is a virtual dataset or has external storage.
    """
    from h5py import h5d

    # whether it is an array is not asked by its shape, for which HDF5 may look into the other files
    if isinstance(getattr(element, "id", None), h5d.DatasetID):
        _refuse_stored_elsewhere(element.id, element.file.filename, element.name or "(found by a reference)")


def refuse_entry_out(path: Path, folder: Path) -> None:
    """Refuse a file below a folder that, by symbolic links, lies outside of it, or that is no regular file.

    Args:
        path: the file; one that does not exist is not refused here.
        folder: the folder that the user named, which may itself be a symbolic link.

    Raises:
        CorpusError: it lies elsewhere, or is a pipe or device.
    """
    try:
        root, real = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:
        raise CorpusError(f"`{path}` is a symbolic link that leads nowhere: {error}.") from error
    if not any(real.is_relative_to(allowed) for allowed in (root, *_blobs(root))):
        raise CorpusError(
            f"`{path}` is a symbolic link that leads out of `{folder}`, to `{real}`: put a copy in its place."
        )
    if real.exists() and not (real.is_file() or real.is_dir()):
        raise CorpusError(f"`{path}` is a pipe, socket or device, not a file.")


def refuse_entries_out(folder: Path) -> None:
    """Refuse a folder that holds, at whatever depth, a symbolic link that leads out of it, a pipe or a device.

    Raises:
        CorpusError: it does; the message names the entry.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    refuse_entry_out(Path(entry.path), folder)


def _blobs(root: Path) -> list[Path]:
    """Where `huggingface_hub` keeps the files of a snapshot, to which the snapshot's own entries are links."""
    snapshots = next((parent for parent in root.parents if parent.name == "snapshots"), None)
    return [] if snapshots is None else [snapshots.parent / "blobs"]


def _links(file: Any, path: str | Path) -> list[tuple[bytes, int]]:
    """Names, from the root, and kinds of all links of an open HDF5 file."""
    links: list[tuple[bytes, int]] = []

    def add(name: bytes, about: Any) -> bool | None:
        links.append((name, about.type))
        # older versions of HDF5 follow circles of groups whose number of links the file understates
        return name.count(b"/") > _MOST_LEVELS or len(links) > _MOST_LINKS or None

    if file.id.links.visit(add, info=True):
        raise _without_end(path, f"/{os.fsdecode(links[-1][0])}")
    return links


def _without_end(path: str | Path, place: str) -> CorpusError:
    return CorpusError(
        f"`{path}`: the groups below `/{place.split('/')[1]}` lead to one another in circles or without end: take "
        "that element out, and write the file again."
    )


def _refuse_stored_elsewhere(dataset: Any, path: str | Path, place: str) -> None:
    from h5py import h5d

    properties = dataset.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL:
        raise _leads_out(path, place, "a virtual dataset")
    if properties.get_external_count():
        raise _leads_out(path, place, "a dataset with external storage")


def _leads_out(path: str | Path, place: str, what: str) -> CorpusError:
    return CorpusError(
        f"`{path}`: `{place}` is {what}, whose data lie elsewhere, and only what the file itself holds is read: "
        "if you trust who made it, write it anew as a whole (`anndata.read_h5ad(path).write_h5ad(new)`)."
    )
