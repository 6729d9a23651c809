#!/usr/bin/env bash
# Installs the pinned packages into a virtual environment and FFmpeg's libraries where they are missing.
# Does nothing if both are up to date with requirements.lock and pyproject.toml. Usage: ./bootstrap.sh [.venv]
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
    [ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found. Install one, or name it: PYTHON=/path/to/python3.12 make demo"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge 9 ] || fail "$free GB free here; the packages need about 7 GB and pip 2 GB more. Free some space."
    echo "Installing the pinned packages into $venv (about 7 GB, some minutes) ..."
    rm -f "$stamp"
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
        { rm -rf "$venv"; "$python" -m venv "$venv"; }
    # --no-deps: the lock is complete, and pip must not pick anything else.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$want" >"$stamp"
fi

# Scripts of a virtual environment name its folder: after the project was moved they would run the old one's code.
"$venv/bin/python" - "$venv" <<'EOF'
import pathlib, re, sys
venv = pathlib.Path(sys.argv[1]).resolve()
config = (venv / "pyvenv.cfg").read_text()
old = re.search(r"^command = .* -m venv (?:--\S+ )*(.+)$", config, re.M)
if old and old[1] != str(venv) and venv.parent != pathlib.Path(old[1]).parent:
    print(f"The project was moved: changing {old[1]} to {venv}")
    for path in [venv / "pyvenv.cfg", *venv.glob("bin/*"), *venv.glob("lib/*/site-packages/__editable__*")]:
        if path.is_file() and not path.is_symlink():
            before = path.read_bytes()
            after = before.replace(f"{pathlib.Path(old[1]).parent}/".encode(), f"{venv.parent}/".encode())
            line, _, rest = after.partition(b"\n")
            if line.startswith(f"#!{venv}/".encode()) and (b" " in line or len(line) > 127):  # the kernel refuses it
                after = b"#!/bin/sh\n'''exec' \"" + line[2:] + b"\" \"$0\" \"$@\"\n' '''\n" + rest
            if after != before:
                path.write_bytes(after)
EOF

if [ ! -f "$venv/.ffmpeg" ]; then
    fresh=1
    if ! "$venv/bin/python" -m echolung.data.ffmpeg >/dev/null 2>&1 &&
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing FFmpeg's libraries (apt-get install ffmpeg) ..."
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg >/dev/null
    fi
    "$venv/bin/python" -m echolung.data.ffmpeg || exit 1
    touch "$venv/.ffmpeg"
fi
if [ -n "${fresh:-}" ]; then echo "Installed. To use it in this shell: source $venv/bin/activate"; fi
