#!/usr/bin/env bash
# One would guess that the Python interpreter of smolagents, which runs the code that a CodeAgent writes, runs it as
# Python does or raises an error, as it does for `yield`, `match` and `:=`. In fact it leaves out some of it without a
# word: the `else` of a loop, and decorators. The usual sieve with for ... else finds no prime, a decorated function is the
# bare one, a @property is a method, and a list as a default argument is made anew at each call. smolagents 1.26.0.
# It matters to people who train or evaluate agents that answer with code because right code has a wrong result, with no
# error in the observation that the model could learn from: an episode is judged by the interpreter, not by the model.
# Upstream: issues 2746 and 2782 (the loop's else) and 2771 (decorators), open, with pull requests.
# Seen here: [] for the primes below 20, 4 for a doubled 4, False for `v == 3` with a property.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq smolagents==1.26.0
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from smolagents.local_python_executor import InterpreterError, LocalPythonExecutor

programs = {
    "for ... else": """
primes = []
for n in range(2, 20):
    for d in range(2, n):
        if n % d == 0:
            break
    else:
        primes.append(n)
result = primes
""",
    "decorator": """
def doubled(function):
    def inner(x):
        return function(x) * 2
    return inner

@doubled
def following(x):
    return x + 1

result = following(3)
""",
    "property": """
class Box:
    @property
    def area(self):
        return 3

result = Box().area == 3
""",
    "default list": """
def keep(x, kept=[]):
    kept.append(x)
    return kept

keep(1)
result = keep(2)
""",
}
seen = {}
for name, program in programs.items():
    executor = LocalPythonExecutor(additional_authorized_imports=[])
    executor.send_tools({})
    names = {}
    exec(program, names)
    seen[name] = executor(program + "result").output, names["result"]
    print(f"{name}: smolagents {seen[name][0]}, Python {seen[name][1]}")
try:
    executor("def count():\n    yield 1\nlist(count())")
    refused = False
except InterpreterError:
    refused = True
print("yield is refused:", refused)
expected = {"for ... else": ([], [2, 3, 5, 7, 11, 13, 17, 19]), "decorator": (4, 8), "property": (False, True),
            "default list": ([2], [1, 2])}
if seen != expected or not refused:
    sys.exit("The behaviour differs from the description.")
PY
