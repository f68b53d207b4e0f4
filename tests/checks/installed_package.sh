#!/bin/sh
# Usage: installed_package.sh CMAKE BUILD_DIR CONSUMER_SOURCE MPIRUN
# Installs into an empty prefix, builds the consumer against it (find_package and pkg-config see nothing else),
# and runs it under mpirun.
set -eu
cmake=$1 build=$2 consumer=$3 mpirun=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build" --prefix "$work/prefix" > "$work/install.log" || { cat "$work/install.log"; exit 1; }
"$cmake" -S "$consumer" -B "$work/consumer" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix"
"$cmake" --build "$work/consumer"
for program in "$work"/consumer/*; do
  if [ ! -f "$program" ] || [ ! -x "$program" ]; then continue; fi
  timeout -k 5 400 "$mpirun" -n 2 "$program"
  ran=yes
done
[ "${ran:-}" ] || { echo "the consumer built no program"; exit 1; }

# The tree can be moved: the program finds its library, pkg-config its headers.
mv "$work/prefix" "$work/moved"
pc=$(find "$work/moved" -name syncbn.pc)
flags=$(pkg-config --cflags --libs "$pc")
printf '#include "syncbn/comm/world.hpp"\nint main() { return syncbn::World::threads({.workers = 2}).workers() != 2; }\n' > "$work/a.cpp"
# shellcheck disable=SC2086  # $flags are several arguments
"${CXX:-c++}" "$work/a.cpp" $flags -o "$work/a"
LD_LIBRARY_PATH=$(dirname "$(dirname "$pc")") "$work/a"
if [ -x "$work/moved/bin/syncbn" ]; then
  "$work/moved/bin/syncbn" --version
  (cd "$work" && "$work/moved/share/syncbn/launch/local" -n 2 quickstart train.steps=2 data.test_limit=8)
  [ -s "$work/runs/quickstart/summary.json" ] || { echo "the installed launch/local trained nothing"; exit 1; }
fi
