#!/usr/bin/env bash
# Everything that has to pass: installs what the tests need, then runs them. As root (it mounts, and acts as several users).
# Usage: scripts/test.sh [STEP...]     (default: all; the steps are named below; LONG=1 makes the suites longer)
# The steps before the suites need no FUSE. Every step has a time limit; nothing it mounts or makes is left behind.
set -euo pipefail
((EUID == 0)) || exec sudo --preserve-env=CARGO_TARGET_DIR,TMPDIR,LONG "$0" "$@"
. "$(dirname "$0")/lib.sh"
cd "$PROJECT"

limit() { # MINUTES COMMAND...: a hung mount must not hang the tests
  timeout --kill-after=30 "$1m" "${@:2}"
}

# --- the steps, in order ---

step_format() { limit 2 cargo fmt --check; }

step_lint() {
  limit 15 cargo clippy --quiet --all-targets --features simulation,logind -- -D warnings
  limit 15 cargo clippy --quiet --all-targets --no-default-features --features simulation -- -D warnings
}

# With overflow checks and debug assertions.
step_debug() { limit 30 cargo test --features logind --no-fail-fast; }

# The crash suite, optimised: it looks at as many states as it has time for.
step_crash() {
  limit 25 cargo test --release --features simulation --test crash -- --nocapture
  limit 10 cargo test --release --features simulation --test fuzz_corpus --test rotate
}

# The pure-Rust engine, where it makes a difference.
step_portable() { limit 10 cargo test --no-default-features --lib -- crypto format; }

step_documentation() { RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' limit 10 cargo doc --quiet --no-deps; }

step_suites() {
  local suite status=0
  limit 15 cargo build --quiet --release --bin sero
  export SERO=$BUILD/release/sero
  for suite in scripts/suites/*.sh; do
    if ! limit "${SUITE_MINUTES:-15}" "$suite"; then
      printf 'FAILED: %s\n' "$suite" >&2
      status=1
    fi
  done
  return "$status"
}

all=(format lint debug crash portable documentation suites)

# --- what they need ---

need_packages build-essential pkg-config git fuse3 acl attr libacl1-dev sqlite3 rsync python3 python3-cryptography python3-argon2 xz-utils \
  util-linux procps psmisc dbus
need_cargo
# The second reader of the format is a Python script; the python3 in front may not be Debian's.
python3 -c 'import cryptography, argon2' 2>/dev/null || python3 -m pip install --quiet cryptography argon2-cffi ||
  die "python3 cannot import the modules cryptography and argon2"
[[ -c /dev/fuse ]] || modprobe fuse || die "there is no /dev/fuse: the tests mount vaults"

make_scratch
# All temporary files and mounts of the tests are below it, and so are cleaned up with it.
export TMPDIR=$SCRATCH
need_testers
fuse_for_all
allow_other_for_all

# --- run them ---

passed=0
failed=()
for step in "${@:-${all[@]}}"; do
  declare -F "step_$step" >/dev/null || die "there is no step $step; there are: ${all[*]}"
  say "$step"
  started=$SECONDS
  set +e
  (set -e; "step_$step") </dev/null
  status=$?
  set -e
  if ((status == 0)); then
    passed=$((passed + 1))
    say "$step passed in $((SECONDS - started)) s"
  else
    failed+=("$step")
    say "$step FAILED after $((SECONDS - started)) s"
  fi
done

((!${#failed[@]})) || printf 'failed: %s\n' "${failed[*]}" >&2
printf 'steps: %d passed, %d failed\n' "$passed" "${#failed[@]}"
((!${#failed[@]}))
