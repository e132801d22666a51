#!/usr/bin/env bash
# Installs what the notebooks need beside jax, jaxlib and numpy, which stay at the versions that are
# installed: Colab's fit its accelerators. The project itself is imported from its clone.
set -euo pipefail
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip list --format=freeze | grep -E '^(jax|jaxlib|jax-cuda[^=]*|numpy)==' >"$work/keep.txt" || true
python3 - "$clone/pyproject.toml" >"$work/need.txt" <<'PY'
import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"], sep="\n")
PY
python3 -m pip install --quiet --constraint "$work/keep.txt" --requirement "$work/need.txt"
