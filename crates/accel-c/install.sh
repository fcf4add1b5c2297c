#!/usr/bin/env bash
# Installs libvaccel.so, its headers and vaccel.pc: `install.sh PREFIX [LIBRARY]`.
# LIBRARY is what `cargo build --release -p kernlet-accel-c` made, unless it is given. Called by people, packagers and
# the tests of the C API. Writes below PREFIX only.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 PREFIX [LIBRARY]" >&2
  exit 2
fi
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
library=${2:-${CARGO_TARGET_DIR:-$here/../../target}/release/libvaccel.so}
if [ ! -f "$library" ]; then
  echo "$library is missing: cargo build --release -p kernlet-accel-c" >&2
  exit 1
fi
version=$(sed -n 's/^#define VACCEL_VERSION "\(.*\)"/\1/p' "$here/include/vaccel.h")

mkdir -p "$prefix/include" "$prefix/lib/pkgconfig"
cp -r "$here/include/." "$prefix/include/"
# Replaced in one step: programs that run keep the file that they have.
cp "$library" "$prefix/lib/libvaccel.so.$version.new"
mv -f "$prefix/lib/libvaccel.so.$version.new" "$prefix/lib/libvaccel.so.$version"
ln -sf "libvaccel.so.$version" "$prefix/lib/libvaccel.so.0"
ln -sf libvaccel.so.0 "$prefix/lib/libvaccel.so"
cat >"$prefix/lib/pkgconfig/vaccel.pc" <<EOF
prefix=$prefix
includedir=\${prefix}/include
libdir=\${prefix}/lib

Name: vaccel
Description: vAccel's C API on Kernlet's accelerator runtime
Version: $version
Libs: -L\${libdir} -lvaccel
Cflags: -I\${includedir}
EOF
