#!/usr/bin/env bash
# One would guess that safetensors saves a transposed NumPy array right, or refuses it, as it refuses such tensors
# of PyTorch. In fact safetensors.numpy 0.8.0 writes the memory as it lies under the shape as it is read: a transposed,
# sliced or Fortran-ordered array comes back with its numbers in other places, without an error. Version 0.7.0 kept
# them. It matters to people who train vision-language models because feature banks, position tables and pictures
# (height x width x channel turned to channel first) are such arrays, and shape and dtype all look right afterwards.
# Upstream: safetensors issue 825 (open); the way out is np.ascontiguousarray before save.
# Seen here: [[0, 3], [1, 4], [2, 5]] comes back as [[0, 1], [2, 3], [4, 5]] from 0.8.0, and whole from 0.7.0.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
cat > "$T/roundtrip.py" <<'PY'
import numpy as np
import safetensors
from safetensors.numpy import load, save

table = np.arange(6, dtype=np.float32).reshape(2, 3)
picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3).transpose(2, 0, 1)
same = []
for name, array in {"transposed": table.T, "columns": table[:, 1:], "channel first": picture}.items():
    back = load(save({"x": array}))["x"]
    assert back.shape == array.shape and back.dtype == array.dtype
    same.append(bool(np.array_equal(back, array)))
    print(safetensors.__version__, name, "kept" if same[-1] else f"{array.ravel()[:6]} became {back.ravel()[:6]}")
whole = np.array_equal(load(save({"x": np.ascontiguousarray(table.T)}))["x"], table.T)
expected = safetensors.__version__.startswith("0.7")
if not (whole and all(s == expected for s in same)):
    raise SystemExit("The behaviour differs from the description: see which arrays were kept above.")
PY
for version in 0.7.0 0.8.0; do
  "$T/venv/bin/pip" install -qq "safetensors==$version" numpy==2.4.6
  "$T/venv/bin/python" "$T/roundtrip.py"
done
