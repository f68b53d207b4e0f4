#!/bin/sh
# Usage: completions.sh ROOT PROGRAM
# The completions of every shell know each command and option that the program's help shows.
set -eu
cd "$1/launch/completions"
program=$2
failures=0

options() { "$@" --help | sed -nE 's/^ +(-h, *)?--([a-z-]+).*/\2/p'; }
commands() { "$@" --help | sed -nE '/^Subcommands:/,/^$/s/^ +([a-z]+) .*/\1/p'; }

words=$(options "$program" && commands "$program")
for command in $(commands "$program"); do
  words="$words $(options "$program" "$command") $(commands "$program" "$command")"
  for action in $(commands "$program" "$command"); do
    words="$words $(options "$program" "$command" "$action")"
  done
done
for word in train resume list; do
  echo "$words" | grep -qwe $word || { echo "the help was not understood: $words" && exit 1; }
done

for shell in bash zsh fish; do
  for word in $words; do
    grep -qwe "$word" "syncbn.$shell" || { echo "syncbn.$shell does not know '$word'"; failures=$((failures + 1)); }
  done
done
[ $failures = 0 ]
