#!/usr/bin/env bash
# Sees to it that the programs pip cannot bring are there.
#
#   system_packages.sh build    a C++20 compiler, Python >= 3.11 with venv and headers
#   system_packages.sh test     doctest; Clang with its sanitizers, if it can be had
#
# On Debian and its kin, as root, missing packages are installed; elsewhere the script says what is
# missing and ends with status 1.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
cxx=${CXX:-c++}
can_install=false
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then can_install=true; fi

fail() { printf 'betatron: %s\n' "$*" >&2; exit 1; }

apt_install() {
  echo "installing system packages: $*"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# The Debian packages that are missing, one a line.
missing_build() {
  if ! command -v "$cxx" >/dev/null; then
    [ -z "${CXX:-}" ] || fail "CXX=$CXX: no such program"
    echo g++
  fi
  if ! command -v "$python" >/dev/null; then
    printf '%s\n' python3 python3-venv python3-dev
    return
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  "$python" -c 'import os, sysconfig as s; os.stat(os.path.join(s.get_path("include"), "Python.h"))' \
    2>/dev/null || echo python3-dev
}

missing_test() {
  echo '#include <doctest/doctest.h>' | "$cxx" -x c++ -fsyntax-only - 2>/dev/null || echo doctest-dev
}

check_versions() {
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, $python is $("$python" --version 2>&1);" \
         "name another with PYTHON=..."
  "$cxx" -x c++ -std=c++20 -fsyntax-only - <<'CODE' 2>/dev/null ||
#if defined(__clang__) ? __clang_major__ < 14 : __GNUC__ < 12
#error too old
#endif
#include <version>
CODE
    fail "g++ 12 or clang++ 14 or newer is needed, $cxx is $("$cxx" --version | head -n 1);" \
         "name another with CXX=..."
}

# Clang compiles the sanitizer build; where it cannot be had, g++ does (see sanitizer_compiler.sh).
offer_clang() {
  ./sanitizer_compiler.sh clang >/dev/null 2>&1 && return
  local newest
  if $can_install && apt_install clang; then
    newest=$(clang++ -dumpversion)
    apt_install "libclang-rt-${newest%%.*}-dev" || true
  fi
  ./sanitizer_compiler.sh clang >/dev/null 2>&1 ||
    echo "Clang with its sanitizer libraries is not installed: the sanitizer build uses $cxx"
}

case ${1:-} in build | test) ;; *) fail "usage: system_packages.sh build|test" ;; esac

missing=$("missing_$1")
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086  # one word a package
  if $can_install; then
    apt_install $missing
  else
    fail "please install: $(echo $missing) (names of Debian packages), then run make again"
  fi
fi
if [ "$1" = build ]; then check_versions; else offer_clang; fi
