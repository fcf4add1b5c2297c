#!/usr/bin/env bash
# Runs the monitor's and the tenders' tests on a standard KVM: KVM-AMD of a Debian kernel, on a processor that QEMU emulates.
# For hosts whose own KVM is nested and differs (see docs/architecture.md): guests of Solo5 have a real ring 0 there. An
# emulated processor is slow: what takes milliseconds takes seconds. Called by people, as `just standard-kvm`, and with the
# names of test files in crates/monitor/tests and crates/tender/tests (`kernlet_monitor`: the unit tests), as by CI with
# `solo5 tender`. Needs Debian's qemu-system-x86, busybox-static and cpio, and apt for a kernel, which is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$PWD/target/standard-kvm
seconds=${KERNLET_STANDARD_KVM_SECONDS:-1800}
for tool in qemu-system-x86_64 busybox cpio apt-get dpkg; do
  command -v "$tool" >/dev/null || {
    echo "$tool is missing: apt-get install qemu-system-x86 busybox-static cpio" >&2
    exit 1
  }
done

# A kernel with KVM as modules, unpacked and not installed.
if ! compgen -G "$work/kernel/boot/vmlinuz-*" >/dev/null; then
  package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -n 1)
  [ -n "$package" ] || { echo 'apt knows no linux-image-cloud-amd64: apt-get update' >&2 && exit 1; }
  mkdir -p "$work/kernel"
  (cd "$work/kernel" && apt-get download -qq "$package" && dpkg -x ./*.deb . && rm ./*.deb)
fi

selected=()
for test in "$@"; do
  if [ "$test" = kernlet_monitor ]; then
    selected+=(--lib)
  elif compgen -G "crates/*/tests/$test.rs" >/dev/null; then
    selected+=(--test "$test")
  else
    echo "there is no test $test in crates/monitor and crates/tender" >&2
    exit 1
  fi
done

# Everything that the tests need is a file: there is no cargo in there.
root=$work/root
rm -rf "$root"
mkdir -p "$root"/{bin,dev,proc,sys,tmp,modules,tenders,tests,unikernels}
cp "$(command -v busybox)" "$root/bin/"
# Tests of Solo5's guests alone need no others.
if [ $# = 0 ] || printf '%s\n' "$@" | grep -qvxE 'solo5|tender'; then
  (cd functions && cargo build --release --quiet -p echo -p faults -p pages)
  cp functions/target/release/{echo,faults,pages} "$root/unikernels/"
fi
for target in hvt spt; do functions/solo5/build.sh $target "$root/solo5"; done
for module in irqbypass kvm kvm-amd; do
  find "$work/kernel" -name "$module.ko" -exec cp {} "$root/modules/" \;
done
# The programs of an ordinary build, which CI has by then, with the libraries that they are linked with.
messages=$(cargo test --quiet -p kernlet-monitor -p kernlet-tender "${selected[@]}" --no-run --message-format=json)
sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages" | while read -r program; do
  name=$(basename "$program")
  case $program in
  */deps/*) strip -o "$root/tests/${name%-*}" "$program" ;;
  *) strip -o "$root/tenders/$name" "$program" ;;
  esac
done
ldd "$root"/tests/* "$root"/tenders/* | sed -n 's/^[^/]*\(\/[^ :]*\) (0x.*/\1/p' | sort -u | while read -r library; do
  install -D "$library" "$root$library"
done
# These need gcc, or no KVM.
rm -f "$root"/tests/documented_guest "$root"/tests/elf

# PATIENCE multiplies every deadline of the tests.
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /tmp
for module in irqbypass kvm kvm-amd; do insmod /modules/$module.ko; done
export KERNLET_REQUIRE_KVM=1 KERNLET_UNIKERNELS=/unikernels KERNLET_SOLO5_GUESTS=/solo5 KERNLET_TENDERS=/tenders KERNLET_TEST_PATIENCE=60 PROPTEST_CASES=8 TMPDIR=/tmp
failed=0
cd /tmp
for test in /tests/*; do
  echo "== $(basename $test)"
  # There is no gdb.
  $test --test-threads=1 --skip gdb || failed=$((failed + 1))
done
echo "standard-kvm: $failed of $(ls /tests | wc -l) test programs failed"
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/root.gz"

# no_timer_check: on a busy host the emulated timer is late, at which the kernel would panic. A QEMU that dies ends the
# pipe, and so the script, with its own status.
timeout "$seconds" qemu-system-x86_64 -accel tcg -cpu EPYC,+svm,+npt,+xsaveerptr -m 3072 -nographic -no-reboot \
  -kernel "$work"/kernel/boot/vmlinuz-* -initrd "$work/root.gz" \
  -append 'console=ttyS0 quiet panic=-1 no_timer_check' </dev/null \
  2> >(grep -v "TCG doesn't support requested feature" >&2) |
  sed -u 's/\r$//' | tee "$work/console.txt"
grep -q '^standard-kvm: 0 of ' "$work/console.txt"
