#!/usr/bin/env bash
# The README's program: trains on two ranks, and goes on where it stopped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$2" --oversubscribe --bind-to none -np 2 "$1" "$folder/run" 60 | grep -q 'step 50, ELBO'
test -f "$folder/run/checkpoint-00000060.h5"
"$2" --oversubscribe --bind-to none -np 4 "$1" "$folder/run" 110 | grep -q 'step 100, ELBO'
test -f "$folder/run/checkpoint-00000110.h5"
