#!/bin/sh
# Compares the instructions per value of each kernel with its budget: 5 % more is a regression.
# usage: instructions.sh PROGRAM BUDGETS [--write]     (--write: makes the present counts the budgets)
# Exit code 77: cannot be measured here.
set -eu
program=$1 budgets=$2 write=${3:-}
command -v valgrind > /dev/null || { echo "skipped: valgrind is not installed"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for target in best generic; do
  valgrind -q --tool=callgrind --instr-atstart=no --callgrind-out-file="$folder/$target" "$program" $target > "$folder/log" 2>&1 ||
    { tail -n 3 "$folder/log"; exit 1; }
done
# From "desc: Trigger: Client Request: <target> <layer> <kernel> <values>" and "totals: <instructions>".
awk '/^desc: Trigger: Client Request:/ { target = $5; layer = $6; kernel = $7; values = $8 }
  /^totals:/ && values { printf "%s %s %s %.3f\n", target, layer, kernel, $2 / values; values = 0 }' \
  "$folder"/best.* "$folder"/generic.* | sort > "$folder/counts"
if [ "$write" = --write ]; then
  { sed -n '/^#/p' "$budgets"; cat "$folder/counts"; } > "$folder/new"
  cp "$folder/new" "$budgets"
  exit
fi
awk 'FNR == NR { if ($0 !~ /^#/) budget[$1 " " $2 " " $3] = $4; next }
  { name = $1 " " $2 " " $3 }
  !(name in budget) { print name ": no budget (" $4 " instructions per value)"; next }
  { known++; bad = $4 > 1.05 * budget[name]; failed += bad
    printf "%s: %s instructions per value, budget %s%s\n", name, $4, budget[name], bad ? "  TOO MANY" : "" }
  END { if (!known) { print "skipped: no budgets for this processor"; exit 77 } exit failed > 0 }' "$budgets" "$folder/counts"
