#!/usr/bin/env bash
# One would guess that an entry of NO_PROXY that a client can't use is passed over, at least where no proxy is set.
# In fact httpx 0.28.1 makes no client at all where NO_PROXY has a network of IPv6 (fd00::/8) or an address in brackets
# ([::1]): httpx.Client() raises InvalidURL, "Invalid port", whatever is to be asked and with no proxy set. ::1 alone
# works, and so do networks of IPv4. Some tools that run containers put such entries into every container.
# It matters to people who train vision-language models because huggingface_hub 1.x and the clients of model servers are
# built on httpx: downloads, uploads and evaluations end in a traceback about a port that nobody has named.
# Upstream: encode/httpx issue 3221; mended in its successor httpx2 (issue 829; 2.16.2 here).
# Seen here: httpx refuses 3 of 5, httpx2 none of them.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq httpx==0.28.1 httpx2==2.16.2
cd "$T"
cat > ask.py <<'PY'
import sys
from importlib import import_module

client = import_module(sys.argv[1])
try:
    client.Client().close()
    print("made")
except client.InvalidURL as error:
    print(error)
PY
check() {
  seen=$(env -u no_proxy NO_PROXY="$2" "$T/venv/bin/python" ask.py "$1")
  echo "$1, NO_PROXY=$2: $seen"
  case "$seen" in
    "$3"*) ;;
    *) echo "The behaviour differs from the description: expected '$3'."; exit 1 ;;
  esac
}
check httpx 127.0.0.0/8 made
check httpx ::1 made
check httpx fd00::/8 "Invalid port"
check httpx ::1/128 "Invalid port"
check httpx "[::1]" "Invalid port"
check httpx2 fd00::/8 made
check httpx2 ::1/128 made
check httpx2 "[::1]" made
