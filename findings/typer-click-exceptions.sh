#!/usr/bin/env bash
# One would guess that a command made with typer handles click's exceptions, since typer is built on click.
# In fact typer (since 0.26, here 0.29.0) carries a copy of click of its own: click.UsageError ends in a traceback and
# status 1 rather than a sentence and status 2, click's Exit(7) in status 1 rather than 7, and get_current_context()
# finds no context. Helpers and plug-ins that speak click fail only when they have something to say.
# It matters to people who train vision-language models because launchers branch on the status: a job that wants to
# be "put back in the queue" (a status of its own) counts as crashed. Upstream: typer issue 1867, pull request 1868.
# Seen here: status 1 with a traceback for both, and "There is no active click context"; typer's own Exit(7) gives 7.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq typer==0.29.0 click==8.5.1
cd "$T"
cat > job.py <<'PY'
import click
import typer


def main(how: str):
    if how == "usage":
        raise click.UsageError("two of these options exclude each other")
    if how == "exit":
        raise click.exceptions.Exit(7)
    if how == "own-exit":
        raise typer.Exit(7)
    try:
        print(click.get_current_context().info_name)
    except RuntimeError as error:
        print(error)
        raise typer.Exit(9)


typer.run(main)
PY
check() {
  status=0
  "$T/venv/bin/python" job.py "$1" > seen 2>&1 || status=$?
  traced=$(grep -c Traceback seen || true)
  echo "$1: status $status, tracebacks $traced, last line: $(tail -n 1 seen)"
  if [ "$status/$traced" != "$2" ]; then
    echo "The behaviour differs from the description: expected status/tracebacks $2."
    exit 1
  fi
}
check usage 1/1
check exit 1/1
check own-exit 7/0
check context 9/0
