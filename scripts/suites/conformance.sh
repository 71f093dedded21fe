#!/usr/bin/env bash
# Is it a filesystem like ext4? pjdfstest (POSIX, 398 cases), fsx (random operations on a file, many seeds), the exerciser beside this
# file (what fsx does not do), and several processes at once.
# LONG=1: a million operations instead of 50,000. ON=DIRECTORY: try the suite itself on the filesystem there.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages build-essential acl libacl1-dev python3 util-linux
need_cargo
need_testers
pjdfstest=$(need_tool pjdfstest 0.2.2)
fsx=$(need_tool fsx 0.3.2)
make_place

seeds=${SEEDS:-10}
[[ -z ${LONG:-} ]] || seeds=200
operations=5000

# Nothing is skipped that ext4 runs: all its features are on. The cases of a read-only filesystem remount it; they run by themselves,
# because other cases leave files open for writing, on ext4, too.
posix() { # REMOUNT SUMMARY [PATTERN]
  cat >"$SCRATCH/pjdfstest.toml" <<END
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = $1

[dummy_auth]
entries = [["${TESTERS[0]}", "${TESTERS[0]}"], ["${TESTERS[1]}", "${TESTERS[1]}"]]
END
  if ! PATH=$SCRATCH/bin:$PATH timeout 900 "$pjdfstest" -c "$SCRATCH/pjdfstest.toml" -p "$PLACE/posix" -s "$SCRATCH/second" "${@:3}" \
    >"$SCRATCH/pjdfstest.out" 2>&1 || ! grep -aF "$2" "$SCRATCH/pjdfstest.out"; then
    grep -a -A 3 FAILED "$SCRATCH/pjdfstest.out" || true
    grep -a Summary "$SCRATCH/pjdfstest.out"
    return 1
  fi
}

prepare_posix() {
  mkdir "$PLACE/posix" "$SCRATCH/second" "$SCRATCH/bin"
  mount -t tmpfs second "$SCRATCH/second"
  chmod 755 "$SCRATCH/second"
  # mount(8) would look for a helper of this type to remount it; the kernel does it alone. It says busy for the moment that an
  # unlinked file takes to be released: a FUSE file is released after close(2) has returned.
  cat >"$SCRATCH/bin/mount" <<END
#!/bin/sh
for try in 1 2 3 4 5 6 7 8 9; do $(command -v mount) -i "\$@" 2>/dev/null && exit; sleep 0.1; done
exec $(command -v mount) -i "\$@"
END
  chmod +x "$SCRATCH/bin/mount"
}

fsx_configuration() { # MAX ALIGNMENT
  cat <<END
flen = $1
[opsize]
max = $(($1 / 4))
align = $2
[weights]
close_open = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 2
truncate = 10
fsync = 2
fdatasync = 2
posix_fallocate = $(($2 == 1 ? 5 : 0)) # with an alignment fsx asks for ranges of no length
punch_hole = 10
sendfile = 3
posix_fadvise = 3
copy_file_range = 5
END
}

random_operations() { # NAME LENGTH ALIGNMENT
  local seed
  fsx_configuration "$2" "$3" >"$SCRATCH/fsx-$1.toml"
  for seed in $(seq "$seeds"); do
    timeout 900 "$fsx" -q -f "$SCRATCH/fsx-$1.toml" -N "$operations" -S "$seed" -P "$SCRATCH" "$PLACE/fsx-$1-$seed"
  done
}

exerciser() { # OPTION...
  timeout 900 python3 "$PROJECT/scripts/suites/exerciser.py" "$PLACE/exerciser-$1" --operations "$operations" \
    --seeds "$seeds" "${@:2}"
}

# Processes that make, move, fill and remove in the same directories; each checks what is its own.
together() {
  timeout 900 python3 "$PROJECT/scripts/suites/crowd.py" "$PLACE/crowd" --processes 8 --operations "$operations"
}

prepare_posix
if [[ -n $VAULT ]]; then
  # Beside the 13 of below, link::link_count_max: the C library knows LINK_MAX by the type of a filesystem, and of FUSE nothing.
  check "pjdfstest" posix false '0 failed, 14 skipped, 384 passed'
  check "pjdfstest, on a read-only mount" posix true '0 failed, 0 skipped, 13 passed' erofs
else
  check "pjdfstest" posix false '0 failed,'
fi
check "fsx, 256 KiB" random_operations small 262144 1
check "fsx, 8 MiB" random_operations large 8388608 1
check "fsx, 1 MiB in whole pages" random_operations pages 1048576 4096
check "zero range, keep size, append, two descriptors" exerciser buffered
check "the same with O_DIRECT" exerciser direct --direct
check "8 processes in the same directories" together
check "all of it is the same after sealing" same_when_reopened contents_of_place
check "sealed" seal_place
finish conformance
