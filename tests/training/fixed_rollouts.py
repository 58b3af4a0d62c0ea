"""r1vlm-train with completions that do not depend on which process samples them; arguments are r1vlm-train's."""

from __future__ import annotations

import random
from typing import Any

from training import cli
from training.trainers import grpo

WELL_FORMED = "I see {0}.</think>\n<answer>{0}</answer>"  # its format reward is 1, and that of digits alone is 0


class FixedRollouts(grpo.R1GRPOTrainer):
    """The trainer as it is, but for what is sampled: it follows from the step and the place in the global batch.

    Where questions are drawn anew for a batch, their completions are others.
    """

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        first = self.sampled + self.accelerator.process_index * len(prompt_ids)
        texts = [self._text(random.Random(f"{self.state.global_step}-{first + i}")) for i in range(len(prompt_ids))]
        ends = [self.processing_class.tokenizer.eos_token_id]
        return [self.processing_class.tokenizer(text)["input_ids"] + ends for text in texts], None

    @staticmethod
    def _text(rng: random.Random) -> str:
        digits = "".join(rng.choices("0123456789", k=rng.randint(1, 9)))
        return WELL_FORMED.format(digits) if rng.random() < 0.5 else digits


if __name__ == "__main__":
    grpo.R1GRPOTrainer = FixedRollouts  # type: ignore[misc]
    cli.main()
