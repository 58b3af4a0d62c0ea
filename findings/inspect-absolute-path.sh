#!/usr/bin/env bash
# One would guess that `inspect eval` takes the path of a file of tasks, as it takes `tasks.py` in the current folder.
# In fact it takes the path for a pattern below the current folder: an absolute one ends in a traceback,
# NotImplementedError: Non-relative patterns are unsupported. The same path with a task's name behind it (`@answer`)
# works, and so does `../tasks.py`.
# inspect_ai 0.3.285. It matters to people who train vision-language models because scripts name files by absolute
# paths, and the message does not say that a path is meant.
# No upstream issue found. Seen here: the absolute path alone fails.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq inspect-ai==0.3.285
mkdir "$T/other"
cd "$T/other"
cat > ../tasks.py <<'PY'
from inspect_ai import Task, task
from inspect_ai.dataset import Sample


@task
def answer():
    return Task(dataset=[Sample(input="question", target="answer")])
PY
check() {
  if "$T/venv/bin/inspect" eval "$1" --model mockllm/model --display none > out 2>&1; then seen=works; else seen=fails; fi
  echo "inspect eval ${1/$T/FOLDER}: $seen"
  if [ "$seen" != "$2" ]; then
    echo "The behaviour differs from the description for ${1/$T/FOLDER}."
    exit 1
  fi
}
check ../tasks.py works
check "$T/tasks.py@answer" works
check "$T/tasks.py" fails
