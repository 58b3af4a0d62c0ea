#!/usr/bin/env bash
# One would guess that installing gradio beside Pillow 13 either gives a gradio of this year or is refused: gradio 6 asks
# for Pillow below 13. In fact pip and uv go back to the newest gradio that names no upper limit, 3.36.1 of 2023, with
# today's gradio_client, and say nothing. It can't be imported: gradio_client has moved on. trackio, which stands on
# gradio, becomes 0.0.6. Pillow 13.0.0, gradio 3.36.1 in place of 6.31, gradio_client 2.7.2, uv 0.13.9 and pip alike, with what the
# package index had until 2026-11-30.
# It matters to people who train vision-language models because Pillow is pinned by what reads their images, and a demo or
# a tracker is added later: the traceback names a module of gradio_client, and not Pillow. No upstream issue found.
# Seen here: gradio 3.36.1, trackio 0.0.6, and a ModuleNotFoundError for gradio_client.serializing.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq uv==0.13.9
cd "$T"
resolve() {
    printf 'pillow==13.0.0\n%s\n' "$1" |
        "$T/venv/bin/uv" pip compile -q --exclude-newer 2026-11-30 --python-version 3.11 --no-header --no-annotate -
}
resolve trackio > trackio.txt
resolve gradio > gradio.txt
seen=$(grep -h '^gradio==' gradio.txt; grep -h '^trackio==' trackio.txt)
echo "$seen"
"$T/venv/bin/uv" pip install -q --python "$T/venv/bin/python" -r gradio.txt
error=$("$T/venv/bin/python" -c "import gradio" 2>&1 | tail -1) || true
echo "$error"
if [ "$seen" != $'gradio==3.36.1\ntrackio==0.0.6' ] || [[ "$error" != *"gradio_client.serializing"* ]]; then
    echo "The behaviour differs from the description: other versions are chosen, or they can be imported."
    exit 1
fi
