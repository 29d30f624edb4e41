#!/usr/bin/env bash
# List the Pythons here that can run this project, one for each version, as
# "3.12 /path/to/python3.12": those on PATH in the order of preference, then pyenv's.
# Usage: pythons.sh [MINIMUM]
set -euo pipefail

minimum=${1:-3.11}

# Names that don't run (pyenv has one for every version it keeps) and previews say nothing.
version_of() {
    "$1" -c "import sys
v = sys.version_info
if v >= (${minimum/./, }) and v.releaselevel == 'final': print('%d.%d' % v[:2])" 2>/dev/null
}

candidates() {
    local name
    for name in python3.12 python3.13 python3.11 python3 python python3.14; do
        type -ap "$name" || true
    done
    local kept
    for kept in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python3; do
        [[ ! -x $kept || $kept == */versions/*t/* ]] || echo "$kept"
    done
}

seen=" "
while read -r python; do
    version=$(version_of "$python") || continue
    [[ -n $version && $seen != *" $version "* ]] || continue
    seen+="$version "
    echo "$version $python"
done < <(candidates)
