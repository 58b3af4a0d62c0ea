#!/usr/bin/env bash
# One would guess that OpenCompass reads C in "Answer: (C)".
# In fact its first_option_postprocess, which about a hundred of its configurations of multiple choice name, reads A: none of its
# patterns takes a bracket or \boxed behind "Answer:", and the last resort is the first letter of A to D anywhere, which
# is that of the word "Answer". "Final Answer: (D)" and "Answer: \boxed{C}" are A as well; "Answer: C", "(C)" and "The
# answer is (C)." are read rightly. OpenCompass 0.5.4. Upstream has other slips of the same last resort (pull request
# 2600, issue 1933).
# It matters to people who compare checkpoints on multiple choice because a model that learns to write "Answer: (C)"
# answers A everywhere: its score becomes the share of questions whose answer is A.
# Seen here: A for "Answer: (C)", "Final Answer: (D)" and "Answer: \boxed{C}".
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq --no-deps opencompass==0.5.4
cd "$T"
"$T/venv/bin/python" -W ignore - <<'PY'
import importlib.util
import sys
import types
from importlib.metadata import distribution

# The module asks its package for a registry alone, in which the functions get their names.
registry = types.ModuleType("opencompass.registry")
registry.TEXT_POSTPROCESSORS = types.SimpleNamespace(register_module=lambda *_: lambda function: function)
sys.modules["opencompass.registry"] = registry
sys.modules["opencompass"] = types.ModuleType("opencompass")
path = distribution("opencompass").locate_file("opencompass/utils/text_postprocessors.py")
spec = importlib.util.spec_from_file_location("text_postprocessors", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

answers = {
    "Answer: C": "C", "(C)": "C", "The answer is (C).": "C",
    "Answer: (C)": "A", "Final Answer: (D)": "A", "Answer: \\boxed{C}": "A",
}
seen = {answer: module.first_option_postprocess(answer, "ABCD") for answer in answers}
print(seen)
if seen != answers:
    sys.exit("The behaviour differs from the description: other letters are read.")
PY
