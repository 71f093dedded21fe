#!/usr/bin/env bash
# sero beside the plain filesystem, a FUSE passthrough without encryption, and its peers; as root.
#
#   scripts/bench.sh                                  everything, three rounds, on tmpfs; writes docs/performance.md and its chart
#   BENCH_DISK=/some/directory scripts/bench.sh       the same on the filesystem of that directory
#   FS='native sero gocryptfs' ROWS='write read' ROUNDS=1 scripts/bench.sh     some of it; writes nothing, prints
#   WRITE=1 FS=... scripts/bench.sh                   some of it, and writes that
#
# FS: native passthrough sero gocryptfs securefs encfs cryfs.  ROWS: names of rows or of groups (scripts/bench/load.py rows).
# SERO: the binary, by default a release build of this tree.  SERO_OPTIONS: more options of its mount.
# ROUNDS: 3.  SLOW_ROUNDS: 1, for what takes long and decides little: EncFS and CryFS, and the groups cargo, postgres and mount.
# What fails on a filesystem is shown as failed, and the others go on.
# In a round each group of rows runs on one filesystem after the other, each on a new and empty mount, in an order that moves
# from round to round: what a machine does to all hits all.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

((EUID == 0)) || die "has to run as root: it mounts, and drops caches"
export PYTHONDONTWRITEBYTECODE=1
load=(python3 "$PROJECT/scripts/bench/load.py")
all_filesystems='native passthrough sero gocryptfs securefs encfs cryfs'
filesystems=${FS:-$all_filesystems}
rounds=${ROUNDS:-3}
slow_rounds=${SLOW_ROUNDS:-1}
((slow_rounds <= rounds)) || slow_rounds=$rounds

# --- what is wanted ---

groups=
wanted=
while IFS=$'\t' read -r row group _; do
  if [[ -z ${ROWS:-} || " $ROWS " == *" $row "* || " $ROWS " == *" $group "* ]]; then
    wanted+=" $row"
    [[ " $groups " == *" $group "* ]] || groups+=" $group"
  fi
done < <("${load[@]}" rows)
[[ -n $wanted ]] || die "no row is named ${ROWS:-}; there are: $("${load[@]}" rows | cut -f1 | tr '\n' ' ')"

# --- what that needs ---

packages=(python3 util-linux procps fuse3 bc xz-utils)
for filesystem in $filesystems; do
  case $filesystem in
    gocryptfs | securefs | encfs | cryfs) packages+=("$filesystem") ;;
    passthrough) packages+=(build-essential pkg-config libfuse3-dev dpkg-dev) ;;
    native | sero) ;;
    *) die "there is no filesystem $filesystem; there are: $all_filesystems" ;;
  esac
done
for group in $groups; do
  case $group in
    random) packages+=(fio) ;;
    git) packages+=(git) ;;
    postgres) packages+=(postgresql) ;;
  esac
done
need_packages "${packages[@]}"
[[ " $filesystems " != *" sero "* ]] || need_sero
[[ " $groups " != *" cargo "* ]] || need_cargo

make_scratch
fast=$SCRATCH/fast
mkdir "$fast"
mount -t tmpfs -o size=90%,mode=755 sero-bench "$fast"
if [[ -n ${BENCH_DISK:-} ]]; then
  medium=$(mktemp -d "$BENCH_DISK/sero-bench-XXXXXXXX")
  chmod 755 "$medium"
  remove_medium() { rm -rf --one-file-system "$medium"; }
  at_end remove_medium
  name=$(stat -f -c %T "$BENCH_DISK" | sed 's,ext2/ext3,ext4,')
else
  medium=$fast
  name=tmpfs
fi

# libfuse's own example of a fast passthrough; Debian ships its source in the source package alone.
need_passthrough() {
  passthrough=$BUILD/tools/passthrough_hp
  [[ ! -x $passthrough ]] || return 0
  say "building libfuse's passthrough_hp"
  local place=$SCRATCH/libfuse list
  mkdir -p "$place/sources" "$place/lists/partial"
  # Where the packages come from, the sources do.
  for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [[ ! -e $list ]] || sed -n 's/^deb /deb-src /p' "$list" >"$place/sources/$(basename "$list" .list).list"
  done
  for list in /etc/apt/sources.list.d/*.sources; do
    [[ ! -e $list ]] || sed 's/^Types:.*/Types: deb-src/' "$list" >"$place/sources/$(basename "$list")"
  done
  local apt=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$place/sources" -o "Dir::State::Lists=$place/lists"
    -o APT::Sandbox::User=root -qq)
  apt-get "${apt[@]}" update
  (cd "$place" && apt-get "${apt[@]}" --download-only source fuse3 && dpkg-source --no-check -x fuse3_*.dsc source) >/dev/null
  mkdir -p "$BUILD/tools"
  # shellcheck disable=SC2046
  g++ -O2 -std=c++17 "$place/source/example/passthrough_hp.cc" -o "$passthrough" $(pkg-config --cflags --libs fuse3) -lpthread
}
[[ " $filesystems " != *" passthrough "* ]] || need_passthrough

corpus=$fast/corpus
mkdir "$corpus"
if [[ " $groups " =~ \ (tree|git|mount)\  ]]; then
  say "unpacking Linux's sources"
  need_corpus
  mkdir "$corpus/tree"
  tar -C "$corpus/tree" --strip-components=1 --exclude='linux-source-*/drivers' --exclude='linux-source-*/sound' \
    --exclude='linux-source-*/tools' -xf "$CORPUS"
  (cd "$corpus/tree" && find . -type f -print0 | xargs -0 md5sum >"$corpus/tree.md5")
  tar -C "$corpus/tree" -cf "$corpus/tree.tar" .
fi
if [[ " $groups " == *" cargo "* ]]; then
  cargo init --quiet --vcs none --name something "$corpus/crate"
  (cd "$corpus/crate" && cargo add --quiet clap --features derive && cargo fetch --quiet)
fi

# --- the filesystems, each at its defaults; a cheap key derivation where there is a choice ---

secret=$SCRATCH/secret
printf 'bench passphrase\n' >"$secret"

create_native() { :; }
mount_native() { mount --bind "$1" "$2"; }
create_passthrough() { :; }
# It holds a descriptor for each inode that the kernel knows: where the limit of open files is low, the tree is too much for it.
mount_passthrough() { (ulimit -n 1000000 2>/dev/null || true; "$passthrough" "$1" "$2"); }
create_sero() { "$SERO" --quiet create "$1" "${FAST_KDF[@]}" --password-file "$secret"; }
# shellcheck disable=SC2086
mount_sero() { "$SERO" --quiet mount "$1" "$2" -o allow_other --password-file "$secret" --log "$SCRATCH/sero.log" ${SERO_OPTIONS:-}; }
create_gocryptfs() { gocryptfs -q -init -scryptn 10 -passfile "$secret" "$1"; }
mount_gocryptfs() { gocryptfs -q -allow_other -passfile "$secret" "$1" "$2"; }
create_securefs() { securefs create --rounds 1 --pass bench "$1"; }
mount_securefs() { securefs mount -b -o allow_other --log "$SCRATCH/securefs.log" --pass bench "$1" "$2"; }
create_encfs() { :; }
mount_encfs() { encfs --public --standard --stdinpass "$1" "$2" <"$secret"; }
create_cryfs() { :; }
mount_cryfs() {
  CRYFS_FRONTEND=noninteractive CRYFS_NO_UPDATE_CHECK=true CRYFS_LOCAL_STATE_DIR=$SCRATCH/cryfs-state \
    cryfs --allow-replaced-filesystem "$1" "$2" -- -o allow_other <"$secret"
}

# The daemons are the processes of this script that have /dev/fuse open; they are known by a mark in their environment, or, as
# sero's does not inherit that, by the backing that they have open.
export BENCH_MARK=$SCRATCH
marked_daemons() {
  local pid
  for pid in $({ find /proc/[0-9]*/fd -lname /dev/fuse 2>/dev/null || true; } | cut -d/ -f3 | sort -u); do
    if grep -qzxs "BENCH_MARK=$BENCH_MARK" "/proc/$pid/environ" ||
      [[ -n $(find "/proc/$pid/fd" \( -lname "$backing" -o -lname "$backing/*" \) -print -quit 2>/dev/null) ]]; then
      printf '%s ' "$pid"
    fi
  done
}

start() { # FILESYSTEM: mounts it on $open, sets $daemons
  daemons=
  "mount_$1" "$backing" "$open" >/dev/null || return 1
  for _ in $(seq 100); do
    mountpoint -q "$open" && break
    sleep 0.1
  done
  mountpoint -q "$open" || return 1
  daemons=$(marked_daemons)
}

stop() {
  local pid
  for _ in $(seq 50); do
    mountpoint -q "$open" || break
    umount "$open" 2>/dev/null && break
    sleep 0.1
  done
  ! mountpoint -q "$open" || umount -l "$open"
  for pid in $daemons; do
    timeout 300 tail --pid="$pid" -f /dev/null || kill -9 "$pid"
  done
}

measurements=$SCRATCH/measurements
touch "$measurements"
backing=$medium/backing
open=$SCRATCH/open
mkdir "$open"

measure() { # ROUND FILESYSTEM GROUP
  local output failed='' row group value
  mkdir -p "$backing"
  # What is printed before it fails, counts.
  output=$(run "$2" "$3" 2>"$SCRATCH/errors") || failed=yes
  daemons=$(marked_daemons)
  stop
  rm -rf --one-file-system "$backing"
  while read -r row value; do
    [[ -n $row && " $wanted " == *" $row "* ]] || continue
    printf '%s %s %s %s\n' "$1" "$2" "$row" "$value" | tee -a "$measurements" >&2
  done <<<"$output"
  [[ -n $failed ]] || return 0
  printf '%s failed in %s: %s\n' "$2" "$3" "$(tail -n 2 "$SCRATCH/errors" | tr '\n' ' ')" >&2
  while IFS=$'\t' read -r row group _; do
    [[ $group == "$3" && " $wanted " == *" $row "* && $'\n'$output != *$'\n'"$row "* ]] || continue
    printf '%s %s %s failed\n' "$1" "$2" "$row" | tee -a "$measurements" >&2
  done < <("${load[@]}" rows)
}

run() { # FILESYSTEM GROUP: prints rows and values
  local started
  "create_$1" "$backing" >/dev/null || return 1
  start "$1" || return 1
  # shellcheck disable=SC2086
  timeout 1800 "${load[@]}" "$2" "$open" "$corpus" $daemons || return 1
  if [[ $2 == mount ]]; then
    stop
    sync
    echo 3 >/proc/sys/vm/drop_caches
    started=$(date +%s.%N)
    start "$1" || return 1
    ls "$open" >/dev/null || return 1
    printf 'mount %s\n' "$(echo "$(date +%s.%N) - $started" | bc)"
  fi
}

is_slow() { # FILESYSTEM GROUP
  [[ $1 =~ ^(encfs|cryfs)$ || $2 =~ ^(cargo|postgres|mount)$ ]]
}

cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
before=$(cut -d' ' -f1 /proc/loadavg)
if [[ ${before%.*} -ge 1 ]]; then printf 'the machine is busy (load %s): the numbers will show it\n' "$before" >&2; fi
read -ra order <<<"$filesystems"
for round in $(seq "$rounds"); do
  for group in $groups; do
    for filesystem in "${order[@]}"; do
      [[ $group != mount || $filesystem =~ ^(sero|gocryptfs|securefs)$ ]] || continue
      if ((round > slow_rounds)) && is_slow "$filesystem" "$group"; then continue; fi
      measure "$round" "$filesystem" "$group"
    done
    order=("${order[@]:1}" "${order[0]}")
  done
done

# --- the report ---

report=(python3 "$PROJECT/scripts/bench/report.py" "$measurements")
if [[ -z ${FS:-}${ROWS:-} || -n ${WRITE:-} ]]; then
  chart=performance.svg
  command="${WRITE:+WRITE=1 ${FS:+FS='$FS' }${ROWS:+ROWS='$ROWS' }}${ROUNDS:+ROUNDS=$ROUNDS }scripts/bench.sh"
  if [[ $name != tmpfs ]]; then
    chart=performance-$name.svg
    command="BENCH_DISK=DIRECTORY $command"
  fi
  how='one round'
  if ((rounds > 1)); then
    how="median and half the range of $rounds rounds ($slow_rounds for EncFS and CryFS, \`cargo build\`, PostgreSQL and the mount)"
  fi
  about="\`$command\`, $(date +%Y-%m-%d): $name, $(nproc) CPUs ($cpu), Linux $(uname -r | cut -d- -f1), $how; gocryptfs $(dpkg-query -W -f='${Version}' gocryptfs), securefs $(dpkg-query -W -f='${Version}' securefs), EncFS \
$(dpkg-query -W -f='${Version}' encfs), CryFS $(dpkg-query -W -f='${Version}' cryfs), libfuse $(dpkg-query -W -f='${Version}' fuse3)."
  report+=(--document "$PROJECT/docs/performance.md" --chart "$PROJECT/docs/$chart" --name "$name" --about "$about")
fi
"${report[@]}"
