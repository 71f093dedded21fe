#!/usr/bin/env bash
# Real tools at work in a mounted vault, what they leave checked again after sealing; then the backing is searched for plaintext.
# LONG=1: the whole tree of Linux but its drivers, and 100,000 files in a directory. ON=DIRECTORY: try the suite itself there.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages git sqlite3 rsync xz-utils python3
need_cargo
need_corpus
make_place

if [[ -n ${LONG:-} ]]; then
  parts=(--exclude='*/drivers' --exclude='*/sound' --exclude='*/tools')
  directory_entries=100000
else
  parts=(--wildcards --no-wildcards-match-slash 'linux-source-*/fs' 'linux-source-*/include' 'linux-source-*/kernel' 'linux-source-*/mm')
  directory_entries=20000
fi
original=$SCRATCH/original
marker="sero-marker-$(head -c 12 /dev/urandom | base64 | tr -d +/=)"

prepare() {
  mkdir "$original"
  tar -C "$original" --strip-components=1 -xf "$CORPUS" "${parts[@]}"
  (cd "$original" && find . -type f -print0 | xargs -0 md5sum) >"$SCRATCH/sums"
  tar -C "$original" -cf "$SCRATCH/tree.tar" .
}

untar() { mkdir "$PLACE/tree" && tar -C "$PLACE/tree" -xf "$SCRATCH/tree.tar"; }
sums() { (cd "$PLACE/tree" && md5sum --quiet -c "$SCRATCH/sums"); }

git_works() {
  local repository=$PLACE/repository
  export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
  git init -q "$repository"
  cp -a "$PLACE/tree/fs" "$repository/"
  cd "$repository"
  git add .
  git -c user.name=x -c user.email=x@example.org commit -q -m one
  git fsck --full --strict
  git gc -q
  expect '' git status --porcelain
  git clone -q "$repository" "$PLACE/clone"
  diff -r --exclude=.git "$repository" "$PLACE/clone"
}
git_again() { git -C "$PLACE/repository" fsck --full && git -C "$PLACE/clone" fsck --full; }

sqlite_works() {
  python3 - >"$SCRATCH/transactions.sql" <<'END'
print("create table t(id integer primary key, text text);")
for number in range(10000):
    print(f"begin; insert into t values({number}, '{'x' * (number % 300)}'); commit;")
END
  sqlite3 -bail "$PLACE/data.db" <"$SCRATCH/transactions.sql"
  sqlite_again
}
sqlite_again() {
  expect ok sqlite3 "$PLACE/data.db" 'pragma integrity_check'
  expect '10000|49995000' sqlite3 "$PLACE/data.db" 'select count(*), sum(id) from t'
}

cargo_works() {
  unset CARGO_TARGET_DIR
  cargo init --quiet --vcs none --lib --name small "$PLACE/small"
  cd "$PLACE/small"
  mkdir examples
  printf 'fn main() { println!("{}", small::add(40, 2)); }\n' >examples/answer.rs
  cargo --offline test --quiet
  expect 42 cargo --offline run --quiet --example answer
}

rsync_works() {
  rsync -aHAX "$PLACE/tree/" "$SCRATCH/out/"
  diff -r --no-dereference "$original" "$SCRATCH/out"
  # Nothing left to do, times and modes included.
  expect '' rsync -aHAXni "$PLACE/tree/" "$SCRATCH/out/"
}

sparse_works() {
  local file=$PLACE/sparse
  truncate -s 20G "$file"
  printf 'start' | dd of="$file" conv=notrunc status=none
  printf 'end' | dd of="$file" bs=1 seek=$((20 * 1024 ** 3 - 3)) conv=notrunc status=none
  sparse_again
}
sparse_again() {
  local file=$PLACE/sparse
  expect $((20 * 1024 ** 3)) stat -c %s "$file"
  expect start head -c 5 "$file"
  expect end tail -c 3 "$file"
  (($(du -k "$file" | cut -f1) < 4096))
  python3 - "$file" <<'END'
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(file).st_size
hole = os.lseek(file, 0, os.SEEK_HOLE)
data = os.lseek(file, hole, os.SEEK_DATA)
assert hole <= 1 << 20, hole
assert size - (1 << 20) <= data < size, data
for offset in range(hole, data, (data - hole) // 100):
    assert not any(os.pread(file, 4096, offset)), offset
END
}

directory_works() {
  python3 - "$PLACE/many" "$directory_entries" <<'END'
import os, sys
folder, count = sys.argv[1], int(sys.argv[2])
os.mkdir(folder)
for number in range(count):
    with open(f"{folder}/entry number {number:06}", "w") as file:
        if number % 100 == 0:
            file.write(str(number))
END
  directory_again
}
directory_again() {
  python3 - "$PLACE/many" "$directory_entries" <<'END'
import os, sys
folder, count = sys.argv[1], int(sys.argv[2])
assert sorted(os.listdir(folder)) == [f"entry number {number:06}" for number in range(count)]
for number in range(0, count, 100):
    assert open(f"{folder}/entry number {number:06}").read() == str(number)
END
}
directory_shrinks() {
  python3 - "$PLACE/many" "$directory_entries" <<'END'
import os, sys
folder, count = sys.argv[1], int(sys.argv[2])
# Removed while it is listed: what is left alone is seen exactly once.
kept = [entry.name for entry in os.scandir(folder) if int(entry.name[-6:]) % 2 or os.unlink(entry.path)]
expected = [f"entry number {number:06}" for number in range(1, count, 2)]
assert sorted(kept) == expected, (len(kept), len(expected))
assert sorted(os.listdir(folder)) == expected
END
}

plant_markers() {
  mkdir "$PLACE/$marker-directory"
  printf '%s' "$marker" >"$PLACE/$marker-directory/$marker"
  yes "$marker" | head -c 3000000 >"$PLACE/$marker-large" || true
  ln -s "$marker-target" "$PLACE/$marker-link"
  setfattr -n "user.$marker" -v "$marker" "$PLACE/$marker-large"
  local number
  for number in $(seq 300); do head -c "$number" /dev/zero >"$PLACE/$marker-directory/zeros $number"; done
}

# Everything in the backing: names, content, targets of links, attributes.
no_plaintext() {
  local words=(-e "$marker" -e SPDX-License-Identifier -e 'include <linux' -e 'entry number' -e 'SQLite format' -e Makefile)
  if grep -raF "${words[@]}" "$VAULT"; then return 1; fi
  if find "$VAULT" -printf '%P %l\n' | grep -aF "${words[@]}"; then return 1; fi
  if getfattr -Rhd -m - --absolute-names "$VAULT" | grep -aF "${words[@]}"; then return 1; fi
}

check "the corpus unpacks outside" prepare
check "untar" untar
check "md5sum -c" sums
check "git init, add, commit, fsck, gc, clone" git_works
check "10,000 transactions of SQLite" sqlite_works
check "cargo test, cargo run" cargo_works
check "rsync -aHAX, diff -r" rsync_works
check "a sparse file of 20 GiB" sparse_works
check "$directory_entries files in a directory" directory_works
check "markers are written" plant_markers
check "sealed and mounted again" reopen_place
check "md5sum -c after sealing" sums
check "git fsck after sealing" git_again
check "SQLite after sealing" sqlite_again
check "the sparse file after sealing" sparse_again
check "the large directory after sealing" directory_again
check "entries removed while they are listed" directory_shrinks
check "sealed" seal_place
if [[ -n $VAULT ]]; then
  check "no plaintext in the backing" no_plaintext
  check "every data file is random" python3 "$PROJECT/scripts/suites/randomness.py" "$VAULT"
  cp -a "$VAULT" "$SCRATCH/copy"
  VAULT=$SCRATCH/copy
  check "a copy of the sealed vault mounts" open_place
  check "md5sum -c in the copy" sums
  check "the copy is sealed" seal_place
fi
finish tools
