"""Publishing a dataset folder on the Hub."""

from __future__ import annotations

from pathlib import Path

from datagen.dataset.manifest import MANIFEST
from datagen.dataset.verify import verify
from datagen.hub.cards import CARD
from datagen.hub.publish import Published, PublishTarget, RepoIdentity, publish


def publish_dataset(folder: Path, target: PublishTarget) -> Published:
    """Verify a dataset folder, and publish all of its files in one commit.

    Raises:
        UserError: where it is not what it claims to be, or the Hub refuses; nothing has been published then.
    """
    manifest = verify(folder).manifest
    files = {name: folder / name for name in (CARD, MANIFEST, *manifest["files"])}
    return publish(target, files, RepoIdentity(MANIFEST, "recipe", manifest["recipe"]))
