#!/usr/bin/env bash
# The README's program: trains on two ranks, and goes on where it stopped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$2" --oversubscribe --bind-to none -np 2 "$1" "$folder/run" 60 | grep -q 'step 50, ELBO'
test -f "$folder/run/checkpoint-00000060.h5"
"$2" --oversubscribe --bind-to none -np 4 "$1" "$folder/run" 110 | grep -q 'step 100, ELBO'
test -f "$folder/run/checkpoint-00000110.h5"
# A damaged checkpoint is skipped; where all are, the run is not begun anew.
damage() { printf 'damaged' | dd of="$1" bs=1 seek=9999 conv=notrunc status=none; }
damage "$folder/run/checkpoint-00000110.h5"
"$2" --oversubscribe --bind-to none -np 2 "$1" "$folder/run" 110 >"$folder/log" 2>&1
grep -q 'skipping .*checkpoint-00000110.h5' "$folder/log"
for file in "$folder"/run/checkpoint-*.h5; do damage "$file"; done
code=0
"$2" --oversubscribe --bind-to none -np 2 "$1" "$folder/run" 110 || code=$?
test "$code" = 65
