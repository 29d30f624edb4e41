#!/usr/bin/env bash
# Build both wheels, install each into empty environments on two Pythons, and do there what
# a newcomer does: open napari with the dock and run a network, and run the demo, without
# napari-emseg-data and with it. A table of what was seen comes last.
# PYTHONS="/path/to/python3.11 /path/to/python3.13" chooses the interpreters; by default the
# oldest and the newest here. Takes minutes, and some GB where torch is the CUDA build.
# Usage: check_two_wheels.sh [FOLDER]    keeps wheels and results of demos in a folder
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
out=$(realpath --canonicalize-missing "${1:-$scratch/out}")
mkdir -p "$out"
seen=()

say() { echo "· $*  ($SECONDS s)" >&2; }

# Nothing of the checkout may help: programs run in an empty folder, by their full path.
newcomer() { (cd "$scratch/elsewhere" && env -u PYTHONPATH "$@"); }

choose_pythons() {
    local found
    mapfile -t found < <(scripts/pythons.sh | sort --version-sort)
    [[ ${#found[@]} -gt 1 ]] || {
        echo "error: two Pythons are needed, 3.11 or newer; set PYTHONS" >&2
        exit 1
    }
    echo "${found[0]#* } ${found[-1]#* }"
}

# Look at an installation `$1`, which is `$2` (with or without) napari-emseg-data.
look() {
    local bin=$1/bin which=$2 demo=$out/demo-$version-$2 window score
    newcomer "$bin/python" -m pip check >/dev/null
    newcomer "$bin/npe2" validate --imports napari-emseg >/dev/null
    newcomer "$bin/emseg" weights list >"$scratch/list" 2>&1
    case $which in
    without) grep -q "pip install napari-emseg-data" "$scratch/list" ;;
    with) grep -q "^em-membranes" "$scratch/list" ;;
    esac
    newcomer "$bin/emseg" demo --out "$demo" --overwrite 2>/dev/null >"$scratch/demo"
    score=$(sed -n 's/^V_Rand *\([0-9.]*\).*/\1/p' "$scratch/demo")
    window=$(newcomer xvfb-run -a -s "-screen 0 1600x1000x24" \
        "$bin/python" "$root/scripts/check_window.py" "$which" 2>"$scratch/window" | tail -n 1) || {
        tail -n 30 "$scratch/window" >&2
        exit 1
    }
    seen+=("Python $version, $which napari-emseg-data: demo V_Rand $score; $window")
    say "${seen[-1]}"
}

scripts/system_packages.sh test
mkdir "$scratch/elsewhere"
read -r -a pythons <<<"${PYTHONS:-$(choose_pythons)}"
options=(-qq --no-compile)
export PYTHONDONTWRITEBYTECODE= # what is imported is compiled then, once
nvidia-smi >/dev/null 2>&1 || options+=(--constraint constraints/cpu.txt)

"${pythons[0]}" -m venv "$scratch/build"
PYTHON=$scratch/build/bin/python scripts/build_wheels.sh "$out"
wheel=$(echo "$out"/napari_emseg-*.whl) data=$(echo "$out"/napari_emseg_data-*.whl)

for python in "${pythons[@]}"; do
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    say "Python $version: an empty environment"
    venv=$scratch/$version
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install "${options[@]}" "${wheel}[all]"
    look "$venv" without
    # by the extra, as users ask for it; nothing else may be fetched for it
    "$venv/bin/python" -m pip install -qq --no-index --find-links "$out" "napari-emseg[data]"
    look "$venv" with
    "$venv/bin/python" -m pip uninstall -qq --yes napari-emseg-data
    if newcomer "$venv/bin/emseg" weights show em-membranes >"$scratch/show" 2>&1; then
        echo "error: em-membranes are there without napari-emseg-data" >&2
        exit 1
    fi
    grep -q "pip install napari-emseg-data" "$scratch/show"
    rm -rf "$venv"
done
printf '%s\n' "${seen[@]}"
