#!/usr/bin/env bash
# The vault's key rotated under load, and the daemon killed at random moments of it; what is left is held against what was written.
#
# LONG=1: 50 kills instead of a few; ROUNDS=NUMBER: so many. SEED=NUMBER repeats a run.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages python3 util-linux
need_sero
make_scratch

rounds=8
[[ -z ${LONG:-} ]] || rounds=50
rounds=${ROUNDS:-$rounds}
check "rotated and killed $rounds times" python3 "$(dirname "$0")/rotate.py" "$SERO" "$SCRATCH" "$rounds" "${SEED:-$RANDOM}"
finish rotate
