#!/usr/bin/env bash
# Fuzzes what reads foreign bytes, under libFuzzer, with the stable compiler.
#
#   scripts/fuzz.sh TARGET [SECONDS]      one target of fuzz/src/targets.rs, 3600 seconds if nothing is said
#   scripts/fuzz.sh all [SECONDS]         one after another, each for so long
#   scripts/fuzz.sh minimise TARGET       puts what was found into fuzz/corpus/TARGET, as few and small files as reach the same
#
# What is found is kept below the build directory, in fuzz/found/TARGET; an input that fails, in fuzz/failed. Needs g++.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
command -v g++ >/dev/null || need_packages build-essential
out=$BUILD/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
mapfile -t targets < <(sed -n 's/^    ("\([a-z_]*\)", .*/\1/p' "$PROJECT/fuzz/src/targets.rs")

build() { # as cargo-fuzz does it: the instrumentation is LLVM's, and needs no unstable option
  local pass=-Cllvm-args=-sanitizer-coverage
  RUSTFLAGS="-Cpasses=sancov-module $pass-level=4 $pass-inline-8bit-counters $pass-pc-table $pass-trace-compares \
    --cfg fuzzing -Ccodegen-units=1" \
    cargo build --quiet --release --manifest-path "$PROJECT/fuzz/Cargo.toml" --target "$host" --target-dir "$out/build"
}

fuzz() { # TARGET ARGUMENTS...
  mkdir -p "$out/found/$1" "$out/failed" "$PROJECT/fuzz/corpus/$1"
  SERO_FUZZ=$1 "$out/build/$host/release/sero-fuzz" -artifact_prefix="$out/failed/$1-" -timeout=20 -rss_limit_mb=4096 \
    -max_len=16384 "${@:2}"
}

known() {
  [[ " ${targets[*]} " == *" $1 "* ]] || die "there is no target $1; there are: ${targets[*]}"
}

case ${1:?a target, all, or minimise; see the top of this file} in
  all)
    build
    for target in "${targets[@]}"; do
      fuzz "$target" -max_total_time="${2:-3600}" -print_final_stats=1 "$out/found/$target" "$PROJECT/fuzz/corpus/$target"
    done
    ;;
  minimise)
    known "${2:?a target}"
    build
    less=$(mktemp -d)
    trap 'rm -rf "$less"' EXIT
    fuzz "$2" -merge=1 "$less" "$PROJECT/fuzz/corpus/$2" "$out/found/$2"
    find "$PROJECT/fuzz/corpus/$2" -type f -delete
    find "$less" -type f -exec cp -t "$PROJECT/fuzz/corpus/$2" {} +
    ;;
  *)
    known "$1"
    build
    fuzz "$1" -max_total_time="${2:-3600}" -print_final_stats=1 "$out/found/$1" "$PROJECT/fuzz/corpus/$1"
    ;;
esac
