#!/usr/bin/env bash
# Under load: stress-ng's filesystem stressors and processes mixed, with memory, descriptors and known files back where they were; then
# a verify of the vault. Limits: files in a vault, open files; tools.sh has those of a directory.
# LONG=1: a minute for each stressor, 8 processes mixed for 10 minutes, a million files, and figures of what operations cost.
# Usage: load.sh [stress] [crowd] [limits]     (default: all three)
# STRESSORS='hdd link': these alone. ON=DIRECTORY: try the suite itself there.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages procps python3 stress-ng util-linux
make_place

# stress-ng's classes "filesystem" and "io", and what maps files or sends them.
stressors=(access chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify fallocate fcntl file-ioctl filename flock fpunch fsize fstat
  getdent handle hdd inotify iomix lease link locka lockf lockofd mknod open rename symlink sync-file touch utime xattr
  aio aiol readahead revio seek mmap msync sendfile)
[[ -z ${STRESSORS:-} ]] || read -ra stressors <<<"$STRESSORS"
# Not among them:
#   fiemap: a map of extents; chattr, inode-flags: flags of files; verity: fs-verity. FUSE passes none of them on.
#   fanotify, bind-mount, binderfs, io: mark, make or sync mounts of the whole machine.
#   dup, eventfd, ioprio, procfs, rawdev: no file of the mount. io-uring: this version's fails on ext4, too.
small=(--aiol-requests 16 --copy-file-bytes 128M --dirdeep-inodes 5000 --fallocate-bytes 16M --hdd-bytes 16M --iomix-bytes 16M
  --mmap-bytes 16M --mmap-file --msync-bytes 16M --readahead-bytes 16M --revio-bytes 16M --seek-size 16M --sendfile-size 1M
  --sync-file-bytes 16M)

# --- load ---

stress() { # SECONDS OPTION...
  local seconds=$1 out=$SCRATCH/stress.out status=0
  shift
  mkdir -p "$PLACE/stress"
  # A session of its own: whatever it signals, it is not this script.
  setsid --wait timeout --kill-after=30 $((seconds + 300)) stress-ng --temp-path "$PLACE/stress" --timeout "$seconds" --verify --no-rand-seed \
    "${small[@]}" "$@" </dev/null >"$out" 2>&1 || status=$?
  if ((status)) || [[ ! -s $out ]] || grep -qE 'fail:|error:' "$out"; then
    printf 'exit code %s\n' "$status"
    grep -vE 'dispatching|skipped|run completed' "$out" || true
    return 1
  fi
  rm -rf "$PLACE/stress"
}
one_by_one() {
  local stressor
  for stressor in "${stressors[@]}"; do
    stress 60 "--$stressor" 2 || { printf 'that was %s\n' "$stressor"; return 1; }
  done
}
# Nine at a time, a few seconds each.
in_groups() {
  local at
  for ((at = 0; at < ${#stressors[@]}; at += 9)); do
    stress 3 $(printf -- '--%s 1 ' "${stressors[@]:at:9}")
  done
}
# Every process checks what is its own.
mixed() { timeout $(($1 + 600)) python3 "$PROJECT/scripts/suites/crowd.py" "$PLACE/crowd-$1" --processes 8 --seconds "$1"; }

# --- what the daemon holds ---

status() { "$SERO" status --json "$PLACE" | python3 -c 'import json, sys; print(eval("json.load(sys.stdin)[0]" + sys.argv[1]))' "$1"; }
descriptors() { find "/proc/$daemon/fd" -mindepth 1 | wc -l; }
memory() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$daemon/status"; } # in KiB
# A remount has the kernel drop every name that it remembers of this mount; then the daemon knows its top directory alone.
forget() {
  sync -f "$PLACE"
  mount -i -o remount "$PLACE"
  for _ in $(seq 300); do
    (($(status '["memory"]["inodes"]') > 1)) || return 0
    sleep 0.2
  done
  printf 'it still knows %s files\n' "$(status '["memory"]["inodes"]')"
  return 1
}
# Large requests, many files, and then nothing: where memory and descriptors should come back to.
warm() {
  daemon=$(status '["pid"]')
  limits files "$PLACE/warm" 3000
  mixed 3
  rm -rf "$PLACE/crowd-3"
  remember_use
}
remember_use() {
  forget
  printf '%s %s\n' "$(descriptors)" "$(memory)" >"$SCRATCH/before"
}
# What was needed to know so many at once may stay with the daemon's allocator: knowing them again must not need more.
known_before() {
  limits there "$PLACE/files" "$1"
  daemon=$(status '["pid"]')
  remember_use
}
# What the journal still holds of files that are gone is let go of within seconds.
nothing_is_left() {
  local descriptors_before memory_before found
  daemon=$(status '["pid"]')
  read -r descriptors_before memory_before <"$SCRATCH/before"
  forget
  for _ in $(seq 300); do
    found=$(descriptors)
    ((found > descriptors_before + 8)) || break
    sleep 0.2
  done
  ((found <= descriptors_before + 8)) || { printf '%s descriptors, and then %s\n' "$descriptors_before" "$found"; return 1; }
  # What an allocator keeps for later is no leak; half as much again as before would be.
  found=$(memory)
  printf '%s KiB, and then %s\n' "$memory_before" "$found"
  ((found <= memory_before + memory_before / 2 + 32768))
}

verified() { timeout 3000 "$SERO" verify "$VAULT" --password-file - <<<"$PASSPHRASE"; }

mounts() { limits mounts "$SERO" "$VAULT" "$PLACE" <<<"$PASSPHRASE"; }
limits() { timeout 3000 python3 "$PROJECT/scripts/suites/limits.py" "$@"; }

part_stress() {
  if [[ -n ${LONG:-} ]]; then
    check "${#stressors[@]} stressors, a minute each" one_by_one
  else
    check "${#stressors[@]} stressors" in_groups
  fi
}
part_crowd() {
  local seconds=10
  [[ -z ${LONG:-} ]] || seconds=600
  check "8 processes for $seconds seconds" mixed "$seconds"
}
part_limits() {
  local files=10000 open=2000
  [[ -z ${LONG:-} ]] || files=1000000 open=15000
  check "$open open files" limits open "$PLACE/open" "$open"
  check "$files files" limits files "$PLACE/files" "$files"
  if [[ -n $VAULT ]]; then
    check "sealed" seal_place
    # How long it takes is printed, and nothing is asked of it.
    if [[ -n ${LONG:-} ]]; then mounts; else check "mounted" open_place; fi
    [[ -z ${LONG:-} ]] || check "$files files known, and forgotten" known_before "$files"
  fi
  check "$files files are there" limits there "$PLACE/files" "$files"
  [[ -z ${LONG:-} ]] || limits costs "$PLACE/costs" ${VAULT:+"$(status '["pid"]')"}
}

[[ -z $VAULT ]] || check "warmed up" warm
(($#)) || set -- stress crowd limits
for part in "$@"; do "part_$part"; done
[[ -z $VAULT ]] || check "memory and descriptors are given back" nothing_is_left
check "all of it is the same after sealing" same_when_reopened contents_of_place
check "sealed" seal_place
[[ -z $VAULT ]] || check "verified" verified
finish load
