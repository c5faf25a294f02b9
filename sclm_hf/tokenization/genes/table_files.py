"""Where the gene tables lie: beside this file, or within its twin in a folder that `hub.remote_code` wrote."""

from importlib import resources


def packed_table(name: str) -> bytes:
    """The gzipped table `name`."""
    return resources.files(__package__).joinpath("data", name).read_bytes()
