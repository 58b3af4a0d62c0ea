#!/usr/bin/env bash
# One would guess that `load_dataset("parquet", data_files="here.parquet")` needs no network and tells nobody: the file is
# here, and telemetry can be switched off. In fact every such call sends a HEAD request to a bucket at s3.amazonaws.com,
# which counts it, with the versions of the installed libraries in its User-Agent. HF_HUB_DISABLE_TELEMETRY and
# DO_NOT_TRACK, which huggingface_hub heeds, change nothing; HF_UPDATE_DOWNLOAD_COUNTS=0 and HF_HUB_OFFLINE=1 do.
# `Dataset.from_parquet` reads the same rows and asks nobody. datasets 5.2.0. An error is swallowed after 3 seconds.
# It matters to whoever trains on data that must not show, and behind a firewall that drops packets: each process of a run
# waits 3 seconds at each split. Reported as datasets #6088 in 2023, closed; in the source it is `increase_load_count`.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq datasets==5.2.0
cd "$T"
cat > look.py <<'PY'
import socket
import sys

import pyarrow as pa
import pyarrow.parquet as pq

asked = []


def refuse(host, *_, **__):
    asked.append(host)
    raise OSError("no network")


socket.getaddrinfo = refuse
from datasets import Dataset, disable_progress_bars, load_dataset  # noqa: E402

disable_progress_bars()
pq.write_table(pa.table({"a": [1, 2, 3]}), "here.parquet")
if sys.argv[1] == "load_dataset":
    rows = load_dataset("parquet", data_files="here.parquet", split="train")
else:
    rows = Dataset.from_parquet("here.parquet")
print(len(rows), "rows; asked:", ", ".join(asked) or "nobody")
PY
look() {
    rm -rf hf
    env HF_HOME="$T/hf" "${@:2}" "$T/venv/bin/python" look.py "$1"
}
plain=$(look load_dataset)
quiet=$(look load_dataset HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1)
uncounted=$(look load_dataset HF_UPDATE_DOWNLOAD_COUNTS=0)
direct=$(look from_parquet)
echo "load_dataset:                                   $plain"
echo "  HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1:     $quiet"
echo "  HF_UPDATE_DOWNLOAD_COUNTS=0:                   $uncounted"
echo "Dataset.from_parquet:                           $direct"
seen="$plain/$quiet/$uncounted/$direct"
asks="3 rows; asked: s3.amazonaws.com" none="3 rows; asked: nobody"
if [ "$seen" != "$asks/$asks/$none/$none" ]; then
    echo "This has changed: see above."
    exit 1
fi
