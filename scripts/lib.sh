#!/usr/bin/env bash
# What the scripts share; sourced by them, does nothing by itself.
set -euo pipefail

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${CARGO_TARGET_DIR:-$PROJECT/target}
# Argon2id at its cheapest: the scripts make many vaults, and guard nothing with them.
FAST_KDF=(--kdf-memory 8 --kdf-passes 1 --kdf-lanes 1)

say() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need_packages PACKAGE...: Debian packages, installed if they are missing.
need_packages() {
  local missing=() package
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local as_root=()
  if ((EUID)); then
    command -v sudo >/dev/null || die "these packages are missing, and sudo is, too; as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    </dev/null >/dev/null
}

# Cargo, also where sudo has hidden that of the user who called it.
need_cargo() {
  local home
  for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
    command -v cargo >/dev/null && break
    if [[ -x $home/.cargo/bin/cargo ]]; then
      export PATH="$home/.cargo/bin:$PATH" RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    fi
  done
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$PROJECT/Cargo.toml")
  found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || found=
  [[ -n $found && $(printf '%s\n' "$wanted" "$found" | sort -V | head -1) == "$wanted" ]] ||
    die "Rust $wanted or newer is needed, and ${found:-none} is here. Install it as https://rustup.rs says" \
      "(or, on Debian 13 and Ubuntu 24.04: apt install rustup && rustup default stable), then run this again."
}

# need_tool NAME VERSION: a program from crates.io, built once below the build directory. Prints its path.
need_tool() {
  local name=$1 version=$2 place=$BUILD/tools/$1-$2
  if [[ ! -x $place/bin/$name ]]; then
    say "building $name $version" >&2
    cargo install --quiet --locked --root "$place" --target-dir "$BUILD/tools/build" --version "$version" "$name" >&2
  fi
  printf '%s\n' "$place/bin/$name"
}

# The sero to try: $SERO, or a release build of this tree.
need_sero() {
  if [[ -z ${SERO:-} ]]; then
    need_cargo
    (cd "$PROJECT" && cargo build --quiet --release --bin sero)
    SERO=$BUILD/release/sero
  fi
  [[ -x $SERO ]] || die "$SERO cannot be run"
}

# --- a place of its own, gone at the end ---

# make_scratch [FOLDER]: sets SCRATCH, a new directory below FOLDER (or TMPDIR).
make_scratch() {
  SCRATCH=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/sero-XXXXXXXX")
  chmod 755 "$SCRATCH"
}

# at_end FUNCTION: called when the script ends, however that comes; the last one first.
AT_END=()
at_end() { AT_END=("$1" ${AT_END[@]+"${AT_END[@]}"}); }

mounts_below() { # FOLDER: the mountpoints below it, the last one first
  awk -v folder="$1/" 'index($5 "/", folder) == 1 { print $5 }' /proc/self/mountinfo | tac
}

clean_up() {
  local status=$? mountpoint end
  trap - EXIT
  set +e
  [[ -z ${CHECKING:-} ]] || printf 'FAILED: stopped in the middle of: %s\n' "$CHECKING" >&2
  cd /
  if [[ -n ${SCRATCH:-} ]]; then
    # A few times over, for mounts on mounts.
    for _ in 1 2 3; do
      mounts_below "$SCRATCH" | while read -r mountpoint; do
        umount "$mountpoint" 2>/dev/null || umount -l "$mountpoint" 2>/dev/null || fusermount3 -uz "$mountpoint"
      done
    done
    if [[ -n ${KEEP:-} || -n $(mounts_below "$SCRATCH") ]]; then
      printf 'left in place: %s\n' "$SCRATCH" >&2
    else
      # A daemon that seals may still be writing.
      for _ in 1 2 3; do
        rm -rf --one-file-system "$SCRATCH" 2>/dev/null && break
        sleep 1
      done
    fi
  fi
  for end in ${AT_END[@]+"${AT_END[@]}"}; do "$end"; done
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# --- vaults ---

PASSPHRASE='correct horse battery staple'

sero_create() { # VAULT [OPTION...]
  "$SERO" --quiet create "$@" "${FAST_KDF[@]}" --password-file - <<<"$PASSPHRASE"
}

sero_mount() { # VAULT MOUNTPOINT [OPTION...]
  mkdir -p "$2"
  timeout 120 "$SERO" --quiet mount "$@" --log "$1.log" --password-file - <<<"$PASSPHRASE"
}

sero_seal() { # MOUNTPOINT
  timeout 600 "$SERO" --quiet seal "$1"
}

# make_place [FOLDER]: sets PLACE, a directory on a vault mounted for all users; or $ON, to hold a suite itself against another
# filesystem. Sets VAULT if there is one.
make_place() {
  make_scratch "${1:-}"
  if [[ -n ${ON:-} ]]; then
    VAULT=
    PLACE=$(mktemp -d "$ON/sero-XXXXXXXX")
    chmod 755 "$PLACE"
    at_end remove_place
  else
    need_sero
    VAULT=$SCRATCH/vault
    PLACE=$SCRATCH/open
    sero_create "$VAULT"
    open_place
    chmod 755 "$PLACE"
  fi
}

remove_place() { rm -rf --one-file-system "$PLACE"; }
open_place() { [[ -z $VAULT ]] || sero_mount "$VAULT" "$PLACE" -o allow_other; }
seal_place() { [[ -z $VAULT ]] || sero_seal "$PLACE"; }

# Sealed, and mounted anew: nothing is answered from a cache.
reopen_place() {
  seal_place
  open_place
}

# The content of all files in it.
contents_of_place() { (cd "$PLACE" && find . -type f -exec md5sum {} + | sort); }

same_when_reopened() { # COMMAND...: it prints the same then; says what is different
  local before after
  before=$("$@")
  reopen_place
  after=$("$@")
  diff <(printf '%s\n' "$before") <(printf '%s\n' "$after")
}

# need_corpus: sets CORPUS, the archive of Linux's sources from Debian's (or Ubuntu's) package.
need_corpus() {
  CORPUS=$(find_corpus)
  [[ -n $CORPUS ]] || need_packages "$(apt-cache pkgnames linux-source-6.1 | grep -x linux-source-6.1 || echo linux-source)"
  CORPUS=$(find_corpus)
  [[ -n $CORPUS ]] || die "no archive of Linux's sources under /usr/src; install the package linux-source"
}

find_corpus() { find /usr/src -maxdepth 2 -name 'linux-source-*.tar.*' -type f | sort | head -n 1; }

# --- checks ---

PASSED=0
FAILED=0

# check WHAT COMMAND...: runs it, up to its first error; says what failed, and what it printed.
check() {
  local what=$1 output status watcher
  shift
  CHECKING=$what
  watch_over &
  watcher=$!
  set +e
  output=$(set -e; "$@" 2>&1)
  status=$?
  kill "$watcher" 2>/dev/null
  wait "$watcher" 2>/dev/null
  set -e
  CHECKING=
  if ((status == 0)); then
    PASSED=$((PASSED + 1))
    [[ -z ${VERBOSE:-} ]] || printf '  ok: %s\n' "$what"
  else
    FAILED=$((FAILED + 1))
    printf 'FAILED: %s\n' "$what" >&2
    printf '%s\n' "$output" | tail -n 40 | sed 's/^/    /' >&2
  fi
}

# What a check waits for, if it takes long: who ends it by a time limit learns no more than that.
watch_over() {
  trap - EXIT INT TERM HUP
  # Waits by itself: a process that sleeps would outlive this one.
  exec {never}<> <(:)
  read -r -t 300 -u "$never" || true
  printf 'after 300 s still busy with: %s\n' "$CHECKING" >&2
  ps axf -o pid,ppid,stat,wchan:30,etimes,args | cut -c -200 | grep -v ' \[' >&2
}

# finish NAME: one line of what passed; the exit code of the suite.
finish() {
  # Damage is logged where it is found, whether a check noticed or not.
  local log
  for log in "$SCRATCH"/*.log; do
    if [[ -s $log ]] && grep -qE 'ERROR|panicked' "$log"; then
      FAILED=$((FAILED + 1))
      printf 'FAILED: the log of %s has errors\n' "$(basename "$log" .log)" >&2
      grep -E 'ERROR|panicked' "$log" | tail -n 20 | sed 's/^/    /' >&2
    fi
  done
  printf '%s: %d checks passed, %d failed\n' "$1" "$PASSED" "$FAILED"
  ((FAILED == 0))
}

expect() { # EXPECTED COMMAND...: the command prints this
  local expected=$1 found
  shift
  found=$("$@") || return 1
  [[ $found == "$expected" ]] || { printf 'expected %s, found %s: %s\n' "$expected" "$found" "$*"; return 1; }
}

refuses() { # ERROR COMMAND...: the command fails, and says so
  local error=$1 output
  shift
  if output=$(LC_ALL=C "$@" 2>&1); then
    printf 'was allowed: %s\n' "$*"
    return 1
  fi
  [[ $output == *"$error"* ]] || { printf 'said %s instead of %s: %s\n' "$output" "$error" "$*"; return 1; }
}

# --- people ---

TESTERS=(sero-test-a sero-test-b)
TEAM=sero-test-team

# Two ordinary users and a group of both; what was made here is removed at the end.
need_testers() {
  ((EUID == 0)) || die "has to run as root: it acts as several users"
  local user
  MADE_TESTERS=()
  at_end remove_testers
  getent group "$TEAM" >/dev/null || { groupadd "$TEAM" && MADE_TEAM=yes; }
  for user in "${TESTERS[@]}"; do
    id "$user" >/dev/null 2>&1 || {
      useradd --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --user-group "$user"
      MADE_TESTERS+=("$user")
    }
    usermod --append --groups "$TEAM" "$user"
  done
}

remove_testers() {
  local user
  for user in "${MADE_TESTERS[@]:-}"; do [[ -z $user ]] || userdel "$user" 2>/dev/null; done
  [[ -z ${MADE_TEAM:-} ]] || groupdel "$TEAM" 2>/dev/null
}

as() { # USER COMMAND...
  local user=$1
  shift
  # setpriv itself still has capabilities when it executes; env has none.
  setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups -- env "$@"
}

# Ordinary users may open /dev/fuse, as udev arranges it, until the end.
fuse_for_all() {
  [[ $(stat -c %a /dev/fuse) != 666 ]] || return 0
  FUSE_MODE=$(stat -c %a /dev/fuse)
  at_end restore_fuse_mode
  chmod 666 /dev/fuse
}
restore_fuse_mode() { chmod "$FUSE_MODE" /dev/fuse; }

# Ordinary users may say allow_other, until the end.
allow_other_for_all() {
  grep -qs '^user_allow_other' /etc/fuse.conf && return 0
  FUSE_CONFIGURATION=$(cat /etc/fuse.conf 2>/dev/null || true)
  at_end restore_fuse_configuration
  printf 'user_allow_other\n' >>/etc/fuse.conf
}
restore_fuse_configuration() { printf '%s\n' "$FUSE_CONFIGURATION" >/etc/fuse.conf; }
