"""The reference model of the KL term where it follows the model in training: kept with every checkpoint.

TRL 1.16 loads the reference from where the model was loaded, also where a run is resumed; one that was synced
(`sync_ref_model`) would silently be the first one again, and the KL term would pull towards it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trl import GRPOTrainer

REFERENCE = "reference"  # in a checkpoint


class ReferenceCheckpoints(GRPOTrainer):  # type: ignore[misc]
    """A mixin for TRL's trainer that saves a reference model that is synced."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.ref_model is None or not self.args.sync_ref_model:
            return
        weights = self.accelerator.get_state_dict(self.ref_model)  # of ZeRO-3 all processes have a part
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}", REFERENCE)
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(folder, state_dict=weights)


@contextmanager
def reference_from_checkpoint(model: Any, checkpoint: Path | None) -> Iterator[None]:
    """A trainer that is made inside has the reference of a checkpoint, where there is one.

    TRL loads it from where the model's configuration says that the model is from.
    """
    own = model.config.name_or_path
    if checkpoint is not None and (checkpoint / REFERENCE).is_dir():
        model.config.name_or_path = str(checkpoint / REFERENCE)
    yield
    model.config.name_or_path = own
