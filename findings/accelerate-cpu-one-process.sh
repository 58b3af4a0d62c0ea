#!/usr/bin/env bash
# One would guess that `accelerate launch --cpu --num_processes 2 SCRIPT` starts two processes.
# In fact it starts one, and ends with status 0: with --cpu given, the branch of the launcher that starts several is not
# reached, and --num_processes is dropped. torchrun starts both. accelerate 1.15.0, torch 2.13.0.
# It matters to people who try a distributed training on a laptop before they rent a machine because what they try is not
# distributed, with half of the global batch, and nothing says so.
# Upstream: no issue found. Seen here: "process 0 of 1" and status 0; two processes from torchrun.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq accelerate==1.15.0 torch==2.13.0
cd "$T"
cat > script.py <<'PY'
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
print("process", accelerator.process_index, "of", accelerator.num_processes, flush=True)
PY
export OMP_NUM_THREADS=1 HF_HOME="$T/home"
launched=$("$T/venv/bin/accelerate" launch --cpu --num_processes 2 script.py 2> /dev/null)
alone=$("$T/venv/bin/torchrun" --standalone --nproc_per_node 2 script.py 2> /dev/null | sort)
echo "accelerate launch --cpu --num_processes 2: $launched"
echo "torchrun --nproc_per_node 2: $(echo "$alone" | paste -sd ';')"
if [ "$launched" != "process 0 of 1" ] || [ "$alone" != "process 0 of 2
process 1 of 2" ]; then
    echo "The behaviour differs from the description."
    exit 1
fi
