#!/usr/bin/env bash
# One would guess that generation guided by a JSON schema keeps to it, or that a keyword that can't be kept to is
# refused. In fact outlines_core drops minimum, maximum, multipleOf and uniqueItems without a word: the regular
# expression for a digit from 0 to 9 takes -123. outlines_core 0.2.14 (which outlines, and vLLM's backend of that name,
# use). Upstream: dottxt-ai/outlines-core issue 147; pull request 260 (merged in August 2026, in no release yet) refuses
# the bounds.
# It matters to people who sample boxes or counts from a vision-language model because minimum: 0 and maximum: 1000 are
# how one keeps coordinates inside an image, and nothing says that they are not kept.
# Seen here: {"type": "integer", "minimum": 0, "maximum": 9} becomes (-)?(0|[1-9][0-9]*), as without the bounds.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq outlines_core==0.2.14
cd "$T"
"$T/venv/bin/python" - <<'PY'
import json
import re
import sys

from outlines_core.json_schema import build_regex_from_schema


def regex(**schema):
    return build_regex_from_schema(json.dumps(schema))


seen = {
    "bounds": re.fullmatch(regex(type="integer", minimum=0, maximum=9), "-123"),
    "multipleOf": re.fullmatch(regex(type="integer", multipleOf=28), "27"),
    "uniqueItems": re.fullmatch(regex(type="array", items={"type": "integer"}, uniqueItems=True), "[3,3]"),
}
print(regex(type="integer", minimum=0, maximum=9), {name: match is not None for name, match in seen.items()})
if not all(seen.values()):
    sys.exit("The behaviour differs from the description: a keyword is kept to, or refused.")
PY
