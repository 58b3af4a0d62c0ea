"""Groups whose completions all earned the same: counted in every step, and on request left out of the loss."""

from __future__ import annotations

from typing import Any

import torch

from datagen.common.errors import UserError
from training.callbacks.diagnosis import ZERO_VARIANCE
from training.trl_compat import ScoredBatches

TOKEN_LOSSES = ("dapo", "cispo", "vespo")  # TRL's losses that are divided by the number of tokens in the batch


class ZeroVarianceGroups(ScoredBatches):
    """A mixin for TRL's trainer that logs `frac_groups_zero_variance`, and leaves such groups out where told to.

    TRL 1.16 logs a `frac_reward_zero_std`, which is 0 or 1 where rewards are scaled by the batch, and has no setting to
    leave groups out. Without variance a group's advantages are 0, but the loss is still divided by its tokens, so that
    steps become smaller as questions are solved. ScaleRL drops them from the batch ("zero-variance filtering", Khatri
    et al. 2025, https://arxiv.org/abs/2510.13786); `dynamic_sampling` samples others in their place, at a price.
    """

    drop_zero_variance = False

    def on_batch_scored(self, batch: dict[str, Any], rewards: list[float]) -> None:
        """Count the groups without variance, and take theirs out of advantages and of the number of tokens."""
        same = zero_variance(rewards, self.num_generations)
        self.log_metric(ZERO_VARIANCE, sum(same) / len(same))
        if self.drop_zero_variance:
            size = len(batch["advantages"])
            first = self.accelerator.process_index * size  # rewards are of all processes, one after the other
            dropped = torch.tensor(same)[first : first + size].to(batch["advantages"].device)
            batch["advantages"] = batch["advantages"].masked_fill(dropped, 0.0)  # exactly: rounding left about 1e-4
            kept = batch["completion_mask"][~dropped].sum()
            batch["num_items_in_batch"] = self.accelerator.gather(kept).sum()


def zero_variance(rewards: list[float], group: int) -> list[bool]:
    """For each completion, whether all of its group of so many consecutive ones have the same reward."""
    groups = [rewards[start : start + group] for start in range(0, len(rewards), group)]
    return [max(one) - min(one) < 1e-6 for one in groups for _ in one]


def check_zero_variance_settings(config: Any) -> None:
    """Raise a `UserError` where leaving groups out would change nothing, or more than it should.

    `config` is the trainer's GRPOConfig.
    """
    if config.loss_type not in TOKEN_LOSSES:
        raise UserError(
            f"drop_zero_variance changes nothing with loss_type={config.loss_type}, which is not divided by the number "
            f"of tokens: use {' or '.join(TOKEN_LOSSES)}"
        )
    if config.beta:
        raise UserError("drop_zero_variance would strengthen the KL term: set beta=0, or drop_zero_variance=false")
