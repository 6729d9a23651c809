#!/usr/bin/env bash
# Makes the virtual environment with the pinned packages and checks for FFmpeg's libraries.
# Does nothing when both are as requirements.lock and pyproject.toml say. Usage: ./bootstrap.sh [.venv]
set -euo pipefail
cd "$(dirname "$0")"
venv=${1:-.venv}
stamp=$venv/.installed
want=$(cat requirements.lock pyproject.toml | cksum)

fail() { echo "echolung: $*" >&2; exit 1; }

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
    python=${PYTHON:-}
    if [ -z "$python" ]; then
        for candidate in python3 python3.13 python3.12 python3.11; do
            if command -v "$candidate" >/dev/null 2>&1 &&
                "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
    fi
    [ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found. Install one, or name it: make PYTHON=/path/to/python3.12 demo"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge 9 ] || fail "$free GB free here; the packages need about 7 GB and pip 2 GB more. Free some space."
    echo "Installing the pinned packages into $venv (about 7 GB, some minutes) ..."
    rm -f "$stamp"
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
        { rm -rf "$venv"; "$python" -m venv "$venv"; }
    # --no-deps: the lock is complete, and nothing else on the machine may be picked instead of it.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$want" >"$stamp"
fi

if [ ! -f "$venv/.ffmpeg" ]; then
    if ! "$venv/bin/python" -m echolung.data.ffmpeg >/dev/null 2>&1 &&
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing FFmpeg's libraries (apt-get install ffmpeg) ..."
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg >/dev/null
    fi
    "$venv/bin/python" -m echolung.data.ffmpeg || exit 1
    touch "$venv/.ffmpeg"
fi
