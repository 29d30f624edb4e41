#!/usr/bin/env bash
# Create .venv (or what VENV says) and install this project into it, with its data; at once
# done when nothing changed.
# Usage: environment.sh core | all | dev
set -euo pipefail
cd "$(dirname "$0")/.."

extras=${1:?core, all or dev}
venv=${VENV:-.venv}
data=packages/napari-emseg-data
requires="3.11"

say() { echo "· $*" >&2; }
refuse() {
    echo "error: $*" >&2
    exit 1
}

# A stamp holds the folder it was made in, since a venv doesn't survive a move.
current() {
    local stamp=$venv/.installed-$extras
    [[ -f $stamp && $(cat "$stamp") == "$PWD" ]] || return 1
    local file
    for file in pyproject.toml "$data/pyproject.toml" constraints/cpu.txt; do
        [[ ! $file -nt $stamp ]] || return 1
    done
    "$venv/bin/python" -c "" 2>/dev/null
}

new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < (${requires/./, }))" 2>/dev/null
}

find_python() {
    if [[ -n ${PYTHON:-} ]]; then
        new_enough "$PYTHON" || refuse "PYTHON=$PYTHON is no Python $requires or newer."
        echo "$PYTHON"
        return
    fi
    local version python
    if read -r version python < <(scripts/pythons.sh "$requires"); then
        echo "$python"
        return
    fi
    refuse "Python $requires or newer is needed and was not found on PATH." \
        "Install it (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv;" \
        "others: python.org), or say where it is: make demo PYTHON=/path/to/python3"
}

make_venv() {
    local python=$1
    if ! "$python" -c "import ensurepip, venv" 2>/dev/null; then
        local version
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        scripts/system_packages.sh "python$version-venv"
    fi
    say "Creating $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

usable_venv() {
    [[ -x $venv/bin/python ]] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 \
        && new_enough "$venv/bin/python"
}

# A word now and then, since pip is kept quiet.
still_there() {
    while sleep 30 </dev/null >/dev/null 2>&1; do say "still installing ($SECONDS s)"; done
}

install() {
    local what=. options=(-qq)
    [[ $extras == core ]] || what=".[$extras]"
    # Compiling all that is installed takes pip longer than unpacking it, and a fifth of it
    # is ever imported: that is compiled then, once, unless Python may not keep it.
    [[ -n ${PYTHONDONTWRITEBYTECODE:-} ]] || options+=(--no-compile)
    if ! nvidia-smi >/dev/null 2>&1; then
        options+=(--constraint constraints/cpu.txt)
    fi
    [[ -z ${TORCH_INDEX:-} ]] || options+=(--extra-index-url "$TORCH_INDEX")
    say "Installing napari-emseg and what it needs ($extras): minutes the first time"
    still_there &
    trap "kill $! 2>/dev/null || true" EXIT
    "$venv/bin/python" -m pip install "${options[@]}" --editable "$what" --editable "$data"
}

# dev contains all, which contains core
stamp() {
    local each
    for each in core all dev; do
        echo "$PWD" >"$venv/.installed-$each"
        [[ $each != "$extras" ]] || break
    done
}

current && exit 0
if ! usable_venv; then
    python=$(find_python)
    make_venv "$python"
fi
install
stamp
say "Environment ready: $venv"
