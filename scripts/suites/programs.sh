#!/usr/bin/env bash
# Programs that are picky about their filesystem: databases of several processes, crashed and recovered; git gc; rsync --inplace; dpkg;
# overlayfs; sparse copies and archives with everything; inotify; two vaults, and one inside the other.
# LONG=1: more and longer. ON=DIRECTORY: try the suite itself on the filesystem there.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages acl attr git libsqlite3-0 postgresql procps python3 rsync sqlite3 util-linux
make_place
seconds=4
[[ -z ${LONG:-} ]] || seconds=60

# --- SQLite: several processes, one database ---

# Each process adds to its own row and to one that all share; at the end the sums must agree.
sqlite_together() { # JOURNAL_MODE
  timeout 300 python3 - "$PLACE/$1.db" "$1" "$seconds" <<'END'
import multiprocessing, sqlite3, sys, time
path, mode, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])

def connect():
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute(f"pragma journal_mode={mode}")
    return connection

def work(number):
    connection = connect()
    end = time.time() + seconds
    rounds = 0
    # SQLite's lock is not fair: whoever was unlucky goes on when the others have ended.
    while time.time() < end or rounds < 4:
        connection.execute("begin immediate")
        connection.execute("update t set n = n + 1 where id = ?", (number,))
        connection.execute("update t set n = n + 1 where id = 0")
        connection.execute("insert into log(worker, text) values(?, ?)", (number, "x" * (rounds % 500)))
        connection.execute("rollback" if rounds % 7 == 3 else "commit")
        shared, own = connection.execute("select (select n from t where id = 0), (select sum(n) from t where id > 0)").fetchone()
        assert shared == own, (shared, own)
        rounds += 1

connection = connect()
connection.execute("create table t(id integer primary key, n integer)")
connection.execute("create table log(id integer primary key, worker integer, text text)")
connection.executemany("insert into t values(?, 0)", [(number,) for number in range(5)])
connection.close()
workers = [multiprocessing.Process(target=work, args=(number,)) for number in range(1, 5)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert not any(worker.exitcode for worker in workers)
connection = connect()
assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
(count,) = connection.execute("select count(*) from log").fetchone()
assert connection.execute("select n from t where id = 0").fetchone() == (count,)
END
}
sqlite_rollback() { sqlite_together delete; }
sqlite_wal() { sqlite_together wal; }
sqlite_again() {
  local mode
  for mode in delete wal; do
    expect ok sqlite3 "$PLACE/$mode.db" 'pragma integrity_check'
    expect 1 sqlite3 "$PLACE/$mode.db" 'select (select n from t where id = 0) == (select count(*) from log)'
  done
}

# --- PostgreSQL: a data directory in the vault ---

POSTGRES=$(find /usr/lib/postgresql -name pg_ctl -path '*/bin/*' | sort -V | tail -n 1)
POSTGRES=${POSTGRES%/*}
socket=$SCRATCH/socket
in_postgres() { as postgres env PGHOST="$socket" PATH="$POSTGRES:$PATH" "$@"; }
postgres_starts() { in_postgres pg_ctl -D "$PLACE/pg" -w -t 120 -l "$socket/log" start; }
postgres_stops() { in_postgres pg_ctl -D "$PLACE/pg" -w -m fast stop; }
query() { in_postgres timeout 60 psql -X -A -t -d postgres -c "$1"; }
bench() { in_postgres timeout 300 pgbench -n -c 4 -j 2 -T "$seconds" postgres; }

postgres_made() {
  mkdir "$socket" "$PLACE/pg"
  chown postgres: "$socket" "$PLACE/pg"
  in_postgres initdb --data-checksums --no-instructions -A trust -E UTF8 --locale=C -D "$PLACE/pg"
  printf "listen_addresses = ''\nunix_socket_directories = '%s'\n" "$socket" >>"$PLACE/pg/postgresql.conf"
  postgres_starts
  in_postgres pgbench -i -q -s 2 postgres
}
postgres_benched() {
  bench
  postgres_agrees
}
# pgbench moves money: every sum is the same, and every page has its checksum.
postgres_agrees() {
  local sums
  sums=$(query "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
    (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history),
    (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)")
  [[ $sums == 't|t|t' ]] || { printf 'the sums differ: %s\n' "$sums"; return 1; }
}
# What the clients were told is committed, after a crash too: each inserts its own numbers in order, and notes the last one.
committed() {
  local client
  for client in 1 2; do
    (
      for number in $(seq 1000000); do
        in_postgres timeout 60 psql -X -q -d postgres -c "insert into promised values($client, $number)" 2>/dev/null || exit 0
        printf '%s\n' "$number" >"$SCRATCH/promised-$client"
      done
    ) &
  done
}
promised() { [[ -s $SCRATCH/promised-1 && -s $SCRATCH/promised-2 ]]; }
kept() {
  local client
  for client in 1 2; do
    expect t query "select count(*) >= $(cat "$SCRATCH/promised-$client") and count(*) = max(number) from promised where client = $client"
  done
}
# All of it at once, as a machine that stops: a server process that outlived the others would wait for ever for a lock that a dead one holds.
kill_postgres() { # FOLDER with its postmaster.pid
  local servers
  servers=("$(head -n 1 "$1/postmaster.pid")")
  # Stopped, it starts no more of them; unless it has ended by itself.
  kill -STOP "${servers[0]}" 2>/dev/null || true
  wait_until stopped "${servers[0]}"
  mapfile -t -O 1 servers < <(pgrep -P "${servers[0]}")
  kill -KILL "${servers[@]}" 2>/dev/null || true
  wait_until ended "${servers[@]}"
}
# The number in its files may be in use again, or still: the next one would not start.
postgres_starts_again() {
  rm -f "$PLACE/pg/postmaster.pid" "$socket"/.s.PGSQL*
  postgres_starts
}
stopped() { # PID
  [[ $(ps -o stat= -p "$1") != [RSD]* ]]
}
# None of them runs: who is to collect them may not have done it yet.
ended() { # PID...
  [[ ! $(ps -o stat= -p "$(IFS=,; printf '%s' "$*")") =~ (^|$'\n')[^Z] ]]
}
wait_until() { # COMMAND...: for a minute at most
  for _ in {1..600}; do
    ! "$@" || return 0
    sleep 0.1
  done
  printf 'waited in vain until %s\n' "$*"
  ps -o pid,ppid,stat,wchan:30,args ax
  return 1
}
postgres_killed() {
  query 'create table promised(client int, number int)'
  committed
  bench >/dev/null 2>&1 &
  sleep "$seconds"
  wait_until promised
  kill_postgres "$PLACE/pg"
  wait
  postgres_starts_again
  postgres_agrees
  kept
}
# The vault's daemon is killed under the running database: what it said is committed is there after both have recovered.
vault_killed() {
  local daemon
  query 'truncate promised'
  rm -f "$SCRATCH"/promised-*
  committed
  bench >/dev/null 2>&1 &
  cp "$PLACE/pg/postmaster.pid" "$SCRATCH/"
  sleep "$seconds"
  wait_until promised
  daemon=$("$SERO" info --json "$VAULT" | python3 -c 'import json, sys; print(json.load(sys.stdin)["holder"]["pid"])')
  kill -KILL "$daemon"
  kill_postgres "$SCRATCH"
  wait
  sero_seal "$PLACE" || "$SERO" --quiet seal --lazy "$PLACE"
  open_place
  postgres_starts_again
  postgres_agrees
  kept
}
postgres_again() {
  in_postgres pg_checksums --check -D "$PLACE/pg"
  postgres_starts
  postgres_agrees
  postgres_stops
  in_postgres pg_checksums --check -D "$PLACE/pg"
}

# --- tools ---

# A collection removes empty folders of objects, also those that an addition is just about to write to, which then fails:
# on ext4 as well (three times in a minute of both).
in_three_tries() { "$@" || "$@" || "$@"; }

git_gc() {
  local repository=$PLACE/repository number
  export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
  git init -q "$repository"
  cd "$repository"
  git config user.name x
  git config user.email x@example.org
  # Collected while commits are made.
  for number in $(seq $((seconds * 15))); do
    seq "$number" "$((number * 40))" >"file $((number % 20))"
    in_three_tries git add -A
    in_three_tries git commit -q -m "$number"
    # Two at a time refuse each other.
    ((number % 10)) || { git gc -q || true; } &
  done
  wait
  git gc -q --aggressive --prune=now
  git fsck --full --strict
  expect $((seconds * 15)) git rev-list --count HEAD
  git repack -q -a -d -f
  git fsck --full --strict
}

rsync_inplace() {
  local from=$SCRATCH/image to=$PLACE/image round
  head -c 20000000 /dev/urandom >"$from"
  for round in 1 2 3; do
    rsync --inplace --no-whole-file "$from" "$to"
    cmp "$from" "$to"
    printf 'changed %s' "$round" | dd of="$from" bs=1 seek=$((round * 5000001)) conv=notrunc status=none
    truncate -s -$((round * 1000)) "$from"
  done
  truncate -s 60M "$from"
  rsync --inplace --sparse --no-whole-file "$from" "$to"
  cmp "$from" "$to"
}

# A package with everything that a package may hold, installed, upgraded and removed.
dpkg_root() {
  local build=$SCRATCH/build root=$PLACE/root version
  for version in 1 2; do
    rm -rf "$build"
    mkdir -p "$build/DEBIAN" "$build/usr/bin" "$build/dev" "$build/var/spool" "$build/etc"
    printf 'Package: odd\nVersion: %s\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: odd\n' "$version" >"$build/DEBIAN/control"
    echo /etc/odd.conf >"$build/DEBIAN/conffiles"
    echo "$version" >"$build/etc/odd.conf"
    printf '#!/bin/sh\necho %s\n' "$version" >"$build/usr/bin/odd"
    chown -R 0:0 "$build"
    chmod 4755 "$build/usr/bin/odd"
    ln "$build/usr/bin/odd" "$build/usr/bin/odd-linked"
    ln -s odd "$build/usr/bin/strange"
    mknod -m 660 "$build/dev/odd" c 10 200
    mknod -m 600 "$build/dev/block" b 259 77
    mkfifo "$build/dev/pipe"
    install -d -m 1777 "$build/var/spool/odd"
    chown 0:50 "$build/var/spool/odd"
    dpkg-deb --build "$build" "$SCRATCH/odd-$version.deb" >/dev/null
  done
  mkdir -p "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/info" "$root/var/log"
  touch "$root/var/lib/dpkg/status"
  for version in 1 2; do
    dpkg --root="$root" --install "$SCRATCH/odd-$version.deb"
    expect "$version" "$root/usr/bin/strange"
    expect '4755 2' stat -c '%a %h' "$root/usr/bin/odd"
    expect 'character special file a c8 660' stat -c '%F %t %T %a' "$root/dev/odd"
    expect 'block special file 103 4d' stat -c '%F %t %T' "$root/dev/block"
    expect '1777 50' stat -c '%a %g' "$root/var/spool/odd"
  done
  expect '' dpkg --root="$root" --verify odd
  dpkg --root="$root" --purge odd
  [[ ! -e $root/usr/bin/odd && ! -e $root/dev/odd ]]
}

# All that is seen of a tree, its content included.
seen() { # FOLDER
  (cd "$1" && find . -mindepth 1 \( -type d -printf '%P %y %m %U:%G\n' -o -printf '%P %y %m %U:%G %s %n %l\n' \) | sort &&
    find . -type b,c -print0 | sort -z | xargs -0 -r stat -c '%n %t %T' &&
    find . -type f -print0 | sort -z | xargs -0 md5sum)
}

system_tree() {
  mkdir "$PLACE/system"
  tar -C / -cf - dev/null dev/zero dev/full etc usr/sbin | tar -C "$PLACE/system" --numeric-owner -xpf -
  mkdir "$SCRATCH/system"
  tar -C / -cf - dev/null dev/zero dev/full etc usr/sbin | tar -C "$SCRATCH/system" --numeric-owner -xpf -
  diff <(seen "$SCRATCH/system") <(seen "$PLACE/system")
}

# The same changes through an overlay whose layers are in the vault, and through one beside it.
overlay() {
  local base merged=$SCRATCH/merged
  grep -q overlay /proc/filesystems || modprobe overlay || { echo 'skipped: this kernel has no overlayfs' >&2; return 0; }
  mkdir -p "$merged" "$SCRATCH/beside"
  mount -t tmpfs beside "$SCRATCH/beside"
  for base in "$PLACE" "$SCRATCH/beside"; do
    mkdir -p "$base/layers/lower" "$base/layers/upper" "$base/layers/work"
    cp -a "$SCRATCH/system/etc" "$base/layers/lower/"
    mount -t overlay overlay -o "lowerdir=$base/layers/lower,upperdir=$base/layers/upper,workdir=$base/layers/work" "$merged"
    (
      cd "$merged/etc"
      rm -r init.d
      mkdir init.d
      echo new >init.d/new
      chmod 600 passwd
      echo more >>group
      mv hostname moved
      ln passwd linked
      ln -s nowhere link
      setfattr -n user.note -v text group
      mkdir -p a/b/c
      mv a/b d
      rm -f profile
      cp -a profile.d copied
      truncate -s 10 hosts
    )
    seen "$merged" >"$SCRATCH/merged-$(basename "$base")"
    umount "$merged"
    seen "$base/layers/lower" >"$SCRATCH/lower-$(basename "$base")"
  done
  diff "$SCRATCH/merged-$(basename "$PLACE")" "$SCRATCH/merged-beside"
  diff "$SCRATCH/lower-$(basename "$PLACE")" "$SCRATCH/lower-beside"
  umount "$SCRATCH/beside"
}

copies() {
  local from=$PLACE/holes to
  truncate -s 40M "$from"
  head -c 300000 /dev/urandom | dd of="$from" bs=1M seek=7 conv=notrunc status=none
  head -c 5 /dev/urandom | dd of="$from" bs=1 seek=31000001 conv=notrunc status=none
  for how in --sparse=auto --sparse=always --sparse=never --reflink=auto; do
    to=$PLACE/copied$how
    cp "$how" "$from" "$to"
    cmp "$from" "$to"
    if [[ $how != --sparse=never ]]; then
      # Holes stay holes.
      (($(du -k "$to" | cut -f1) < 4096)) || { du -k "$from" "$to"; return 1; }
    fi
  done
  refuses 'Operation not supported' cp --reflink=always "$from" "$PLACE/refused"
}

lists() { find . | sort | while read -r name; do getfacl -n "$name" && getfattr -d -m - "$name"; done; }

archives() {
  local tree=$PLACE/archived out=$PLACE/unpacked
  mkdir "$tree" "$out"
  cp --sparse=always "$PLACE/holes" "$tree/"
  echo text >"$tree/file"
  setfacl -m u:nobody:rw,g:daemon:r "$tree/file"
  setfacl -d -m u:nobody:rwx "$tree"
  setfattr -n user.note -v text "$tree/file"
  setfattr -n trusted.note -v roots "$tree/file"
  setfattr -n security.note -v text "$tree"
  ln "$tree/file" "$tree/linked"
  tar -C "$tree" --sparse --xattrs --xattrs-include='*' --acls -cf "$PLACE/archive.tar" .
  tar -C "$out" --xattrs --xattrs-include='*' --acls -xpf "$PLACE/archive.tar"
  diff <(seen "$tree") <(seen "$out")
  diff <(cd "$tree" && lists) <(cd "$out" && lists)
  (($(du -k "$out/holes" | cut -f1) < 4096))
}

inotify() {
  mkdir "$PLACE/watched"
  python3 - "$PLACE/watched" <<'END'
import ctypes, os, select, struct, subprocess, sys
folder = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
watcher = libc.inotify_init()
assert libc.inotify_add_watch(watcher, folder.encode(), 0xfff) >= 0
NAMES = {0x2: "modify", 0x4: "attrib", 0x8: "close_write", 0x40: "moved_from", 0x80: "moved_to", 0x100: "create", 0x200: "delete"}
subprocess.run("echo x >a; chmod 600 a; mv a b; echo y >>b; mkdir c; rm b; rmdir c", shell=True, cwd=folder, check=True)
seen = []
while select.select([watcher], [], [], 1)[0]:
    data = os.read(watcher, 65536)
    while data:
        _, mask, _, length = struct.unpack("iIII", data[:16])
        seen.append((NAMES.get(mask & 0xfff), data[16:16 + length].rstrip(b"\0").decode()))
        data = data[16 + length:]
expected = [("create", "a"), ("modify", "a"), ("close_write", "a"), ("attrib", "a"), ("moved_from", "a"), ("moved_to", "b"),
            ("modify", "b"), ("close_write", "b"), ("create", "c"), ("delete", "b"), ("delete", "c")]
rest = iter(seen)
assert all(event in rest for event in expected), seen
END
}

# --- several vaults ---

two_vaults() {
  local other=$SCRATCH/second
  sero_create "$SCRATCH/vault-2"
  sero_mount "$SCRATCH/vault-2" "$other"
  cp -a "$PLACE/archived" "$other/"
  diff <(seen "$PLACE/archived") <(seen "$other/archived")
  refuses 'Invalid cross-device link' python3 -c 'import os, sys; os.rename(*sys.argv[1:])' "$other/archived/file" "$PLACE/renamed"
  mv "$other/archived" "$PLACE/moved"
  diff <(seen "$PLACE/archived") <(seen "$PLACE/moved")
  sero_seal "$other"
}

# Each on its own mount: the inner one's daemon works in the outer vault.
vault_in_vault() {
  local inner=$SCRATCH/inner status
  sero_create "$PLACE/vault"
  sero_mount "$PLACE/vault" "$inner"
  cp -a "$PLACE/archived" "$inner/"
  head -c 5000000 /dev/urandom >"$inner/large"
  sync "$inner/large"
  cp "$inner/large" "$SCRATCH/large"
  # The outer one is in use: it says by whom.
  status=0
  "$SERO" --quiet seal "$PLACE" 2>"$SCRATCH/busy" || status=$?
  expect 10 echo "$status"
  grep -q sero "$SCRATCH/busy"
  sero_seal "$inner"
  reopen_place
  sero_mount "$PLACE/vault" "$inner"
  cmp "$SCRATCH/large" "$inner/large"
  diff <(seen "$PLACE/archived") <(seen "$inner/archived")
  sero_seal "$inner"
}

check "SQLite, rollback journal, 4 processes" sqlite_rollback
check "SQLite, write-ahead log, 4 processes" sqlite_wal
check "PostgreSQL: initdb" postgres_made
check "pgbench" postgres_benched
check "PostgreSQL killed and recovered" postgres_killed
[[ -z $VAULT ]] || check "the vault killed under PostgreSQL, both recovered" vault_killed
check "PostgreSQL stops" postgres_stops
check "git gc beside commits" git_gc
check "rsync --inplace" rsync_inplace
check "dpkg --root" dpkg_root
check "a system's tree with devices and set-user-id programs" system_tree
check "overlayfs, lower and upper" overlay
check "cp --sparse, cp --reflink" copies
check "tar --sparse --xattrs --acls" archives
check "inotify" inotify
if [[ -n $VAULT ]]; then
  check "two vaults at once" two_vaults
  check "a vault in a vault" vault_in_vault
fi
check "sealed and mounted again" reopen_place
check "SQLite after sealing" sqlite_again
check "PostgreSQL after sealing" postgres_again
check "sealed" seal_place
finish programs
