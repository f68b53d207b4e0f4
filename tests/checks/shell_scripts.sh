#!/bin/sh
# Usage: shell_scripts.sh ROOT
# Every shell script passes shellcheck.
set -eu
cd "$1"
command -v shellcheck >/dev/null || { echo "skipped: no shellcheck (apt-get install shellcheck)"; exit 77; }
grep -rlE '^#!.*(/| )(ba)?sh|^# shellcheck shell=' launch tests | xargs shellcheck --external-sources
