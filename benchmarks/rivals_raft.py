"""`r1vlm-train` with RAFT in place of GRPO: `python -m benchmarks.rivals_raft digits --set loss_type=dapo ...`.

Sampled answers that are right are trained on as traces are, and all others are thrown away: rejection sampling with
supervised training, on the policy at every step (Dong et al. 2023, https://arxiv.org/abs/2304.06767; as the baseline of
Xiong et al. 2025, https://arxiv.org/abs/2504.11343). All else is what GRPO has: questions, sampling, optimiser.
"""

from __future__ import annotations

from typing import Any

import torch

from training import cli
from training.trainers import grpo


class RAFTTrainer(grpo.R1GRPOTrainer):
    """The trainer of GRPO with an advantage of 1 for right completions, and of 0 for others.

    With `loss_type=dapo` and one step a batch, the gradient is that of the mean negative log-likelihood over the tokens
    of the right completions.
    """

    def on_batch_scored(self, batch: dict[str, Any], rewards: list[float]) -> None:
        """Replace the advantages, and the number of tokens by which the loss is divided."""
        super().on_batch_scored(batch, rewards)
        right = right_ones(rewards)
        batch["advantages"] = right.float()
        batch["num_items_in_batch"] = batch["completion_mask"][right].sum().clamp(min=1)


def right_ones(rewards: list[float]) -> torch.Tensor:
    """Which completions are right: correctness has a weight of 1, and what else there is (`format`) of 0.1."""
    return torch.tensor(rewards) > 0.999  # float32 adds the weights


if __name__ == "__main__":
    grpo.R1GRPOTrainer = RAFTTrainer  # type: ignore[misc]
    cli.main()
