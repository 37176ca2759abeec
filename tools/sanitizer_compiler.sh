#!/usr/bin/env bash
# Prints the compiler for the sanitizer build: the first Clang that can compile, link and run with the
# address and undefined-behaviour sanitizers, else g++.
#
#   sanitizer_compiler.sh          any of them
#   sanitizer_compiler.sh clang    only a Clang; status 1 if there is none
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo 'int main() { return 0; }' >"$scratch/probe.cpp"

candidates=(clang++ clang++-{22..14})
[ "${1:-}" = clang ] || candidates+=("${CXX:-g++}")
for compiler in "${candidates[@]}"; do
  if command -v "$compiler" >/dev/null &&
     "$compiler" -std=c++20 -fsanitize=address,undefined "$scratch/probe.cpp" -o "$scratch/probe" \
       2>/dev/null && "$scratch/probe"; then
    echo "$compiler"
    exit 0
  fi
done
echo "no compiler with address and undefined-behaviour sanitizers found" >&2
exit 1
