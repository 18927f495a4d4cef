#!/bin/sh
# What goes into the image: the Dockerfile runs this, and so does the test that a wheel is complete.
#
#   install.sh wheel SOURCE WHEELS                     build the wheel of the repository in SOURCE into the folder WHEELS
#   install.sh packages WHEELS CONSTRAINTS EXTRAS      install it from there, with the pinned versions of all that it needs
#
# PYTHON is the interpreter (python3), TORCH_INDEX the index that torch comes from, if not from the default one.
set -eu

python=${PYTHON:-python3}

case ${1:-} in
wheel)
    "$python" -m pip wheel --no-deps --wheel-dir "$3" "$2"
    ;;
packages)
    # Torch first and alone: its index may lack the pinned versions of what it depends on.
    "$python" -m pip install --no-deps --constraint "$3" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
    "$python" -m pip install --constraint "$3" "$(echo "$2"/*.whl)[$4]" "ray[default]"
    ;;
*)
    sed -n '4,5s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
