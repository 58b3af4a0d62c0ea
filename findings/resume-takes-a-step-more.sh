#!/usr/bin/env bash
# One would guess that a run that is resumed from the checkpoint of its last step has nothing left to do.
# In fact `Trainer.train(resume_from_checkpoint=...)` looks whether `max_steps` is reached only behind a step: it takes
# one step more, with the learning rate that the scheduler has behind its end. Where checkpoints are saved at every step,
# each further start of the same script adds one. At the end of an epoch nothing happens, which hides it in small trials.
# transformers 5.17.0.
# It matters to people whose jobs are requeued because a job that is killed between its last checkpoint and its own end
# comes back, and ends with other weights than one that was never killed.
# Upstream: no issue found for transformers; verl-project/verl#6232 is the same there.
# Seen here: steps 2, 3 and 4 after one, two and three starts of a run with max_steps=2; 4, 4 and 4 at an epoch's end.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 torch==2.13.0 accelerate==1.15.0
cd "$T"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error "$T/venv/bin/python" - <<'PY'
import sys

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def start(out, max_steps, resume):
    """The step at which a run of four steps an epoch ends."""
    arguments = TrainingArguments(
        out, max_steps=max_steps, save_steps=1, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        disable_tqdm=True, learning_rate=0.1,
    )
    rows = [{"x": torch.tensor(float(i)), "labels": torch.tensor(2.0 * i)} for i in range(8)]
    trainer = Trainer(Line(), arguments, train_dataset=rows)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(out) if resume else None)
    return trainer.state.global_step


inside = [start("inside", 2, resume) for resume in (False, True, True)]
at_the_end = [start("at-the-end", 4, resume) for resume in (False, True, True)]
print(f"three starts of the same run: max_steps=2 ends at {inside}, max_steps=4, a whole epoch, at {at_the_end}")
if inside != [2, 3, 4] or at_the_end != [4, 4, 4]:
    sys.exit("The behaviour differs from the description.")
PY
