#!/usr/bin/env bash
# See to it that Debian packages are there: install them where we may, else name them.
# Usage: system_packages.sh gui | test | NAME...
set -euo pipefail

# What Qt's xcb plugin and OpenGL link to, and a virtual screen for the tests.
gui=(
    libdbus-1-3 libegl1 libfontconfig1 libgl1 libglib2.0-0 libxcb-cursor0 libxcb-icccm4
    libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0
    libxcb-xinerama0 libxkbcommon-x11-0
)
case ${1:?gui, test or names of packages} in
gui) wanted=("${gui[@]}") ;;
test) wanted=("${gui[@]}" xvfb) ;;
*) wanted=("$@") ;;
esac

[[ $(uname -s) == Linux ]] || exit 0
if ! command -v dpkg-query >/dev/null; then
    [[ $1 != test ]] || command -v Xvfb >/dev/null || {
        echo "error: Xvfb is needed for the tests of the panels; please install it" >&2
        exit 1
    }
    exit 0
fi

# Debian 13 and Ubuntu 24.04 call some libraries NAMEt64.
installed() {
    local name
    for name in "$1" "$1t64"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) != installed ]] \
            || return 0
    done
    return 1
}

missing=()
for package in "${wanted[@]}"; do
    installed "$package" || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! sudo -n true 2>/dev/null; then
        echo "error: Debian packages are missing. Please run:" >&2
        echo "    sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    root=(sudo -n)
fi

echo "· Installing Debian packages: ${missing[*]}" >&2
"${root[@]}" apt-get update -qq
names=()
for package in "${missing[@]}"; do
    if apt-cache show "$package" >/dev/null 2>&1; then
        names+=("$package")
    else
        names+=("${package}t64")
    fi
done
"${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${names[@]}" >/dev/null
