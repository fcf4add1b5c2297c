#!/bin/sh
# Builds guests: build.sh TARGET FOLDER [NAME...] makes FOLDER/NAME.TARGET of NAME.c, for every guest where none is named.
# TARGET is hvt or spt. Called by tests, benchmarks and people; needs gcc and nothing else.
set -eu
target=$1 folder=$2
shift 2
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- $(cd "$here" && ls ./*.c | sed 's|^\./||; s|\.c$||' | grep -v '^runtime$')
case $target in
hvt) number=1 ;;
spt) number=2 ;;
*) echo "build.sh: $target is not hvt or spt" >&2 && exit 1 ;;
esac
flags="-O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -fstack-protector-strong -mstack-protector-guard=global -fcf-protection=none -mno-red-zone
  -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -mtls-direct-seg-refs -DABI_TARGET=$number -fmacro-prefix-map=$here/="
mkdir -p "$folder"
# Vector registers are for the guests that compute with floats themselves: there are hosts where they do not work at ring 0.
scalar=-mgeneral-regs-only
# shellcheck disable=SC2086 # the flags are words
runtime=$folder/.runtime.$target.$$.o
gcc $flags $scalar -c -o "$runtime" "$here/runtime.c"
for name in "$@"; do
  case $name in float | classify) registers= ;; *) registers=$scalar ;; esac
  # Complete before it has its name: tests build the same guest at the same time.
  # shellcheck disable=SC2086
  gcc $flags $registers -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=0x1000 -Wl,-z,noexecstack \
    -Wl,-T,"$here/solo5.ld" -o "$folder/.$name.$target.$$" "$here/$name.c" "$runtime"
  mv "$folder/.$name.$target.$$" "$folder/$name.$target"
done
rm "$runtime"
