#!/usr/bin/env bash
# Installs what building and checking Kernlet takes, as far as it is missing: a C compiler (the linker), Rust's
# rustfmt and clippy, and with --checks the checkers of .ci/tools.txt into target/checkers and the libraries that plugins open
# at run time, into the system and into target/native. Debian and its kin.
# Called by .ci/run, and by people on a fresh machine. Needs root only for what apt has to install.
set -euo pipefail
cd "$(dirname "$0")/.."

checkers=target/checkers
native=target/native
missing=()
stale=

need() { # need PACKAGE TEST...: apt's package, unless the test passes
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

need gcc cc --version
need libc6-dev test -e /usr/include/stdlib.h
need git git --version
if [ "${1:-}" = --checks ]; then
  need python3-venv python3 -c 'import venv, ensurepip'
  # The fuzz targets link LLVM's libFuzzer, which is C++.
  need g++ c++ --version
  # A test debugs a function with it.
  need gdb gdb --version
  # What the plugins openblas and opencl open at run time.
  need libopenblas0-pthread test -e /usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0
  need ocl-icd-libopencl1 test -e /usr/lib/x86_64-linux-gnu/libOpenCL.so.1
  need pocl-opencl-icd test -e /etc/OpenCL/vendors/pocl.icd
  # The C API's tests run under it.
  need valgrind valgrind --version
  # The machine in which guests of Solo5 have a standard KVM, but for its kernel, which scripts/standard-kvm.sh unpacks.
  need qemu-system-x86 qemu-system-x86_64 --version
  need busybox-static busybox true
  need cpio cpio --version
  if command -v apt-cache >/dev/null && ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
    stale=yes
  fi
fi
if [ ${#missing[@]} -gt 0 ] || [ -n "$stale" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "install these with your system's package manager: ${missing[*]}" >&2
    exit 1
  fi
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  if [ ${#missing[@]} -gt 0 ]; then
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
  fi
fi

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! command -v cargo >/dev/null; then
  echo "cargo is missing: install Rust $wanted or newer, as https://rustup.rs says" >&2
  exit 1
fi
for component in fmt clippy; do
  cargo "$component" --version >/dev/null 2>&1 || rustup component add "${component/fmt/rustfmt}"
done

if [ "${1:-}" = --checks ]; then
  # A venv of its own, made again when the list of checkers changes.
  if ! cmp -s .ci/tools.txt "$checkers/tools.txt"; then
    rm -rf "$checkers"
    python3 -m venv "$checkers"
    "$checkers/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r .ci/tools.txt
    cp .ci/tools.txt "$checkers/tools.txt"
  fi
  # What the plugin onnxruntime opens at run time: the library alone, without what its Python needs.
  if ! cmp -s .ci/native.txt "$native/native.txt"; then
    rm -rf "$native"
    python3 -m venv "$native"
    "$native/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r .ci/native.txt
    cp .ci/native.txt "$native/native.txt"
  fi
fi
