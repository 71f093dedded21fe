#!/usr/bin/env bash
# The crash suite for as long as you like: more states of every crash, more random runs, other seeds.
#
#   scripts/crash-long.sh [SECONDS] [SEED]     default: 3600 seconds, a seed made from the date
#
# A failure prints its seed; the same SECONDS and SEED give the same runs again.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-3600}
seed=${2:-$(date +%y%m%d)}
echo "crash suite: $seconds seconds, seed $seed"
SERO_CRASH_SECONDS=$seconds SERO_CRASH_SEED=$seed CARGO_PROFILE_TEST_OPT_LEVEL=${CARGO_PROFILE_TEST_OPT_LEVEL:-2} \
    exec cargo test --features simulation --test crash -- --nocapture
