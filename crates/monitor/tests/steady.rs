//! What a machine costs that has warmed up: requests and rewinds take no memory, and ask the kernel for nothing but to
//! run the guest. A child of the test does them under a filter that ends it at any other system call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

// Counts, as the benchmarks do.
#[path = "../../../bench/src/allocations.rs"]
mod allocations;
mod common;

use std::{
    arch::x86_64::__cpuid, env, mem::ManuallyDrop, os::unix::process::ExitStatusExt as _, process::Command,
    time::Instant,
};

use common::{Function, in_seconds, request};
use kernlet_monitor::{Machine, Response};

/// Requests of each child.
const CALLS: usize = 1000;

/// Names the child's role.
const CHILD: &str = "KERNLET_STEADY_CHILD";

/// How a child says that its requests took memory.
const TOOK_MEMORY: i32 = 3;

const KVM_RUN: u32 = 0xae80;
const KVM_SET_XSAVE: u32 = 0x5000_aea5;

/// Answers and rewinds [`CALLS`] times.
fn serve(mut machine: Machine, response: &mut Response, deadline: Instant) -> Machine {
    let headers: &[(&str, &[u8])] = &[("Content-Type", b"text/plain"), ("X-Two", b"2")];
    for _ in 0..CALLS {
        let asked = kernlet_monitor::Request { headers, ..request("/", b"a body of a steady size") };
        let used = machine.invoke_into(&asked, deadline, response).unwrap();
        assert!(response.body == b"a body of a steady size");
        machine = used.rewind().unwrap();
    }
    machine
}

/// Ends the process at any other system call of this thread than these.
fn allow(ioctls: &[u32]) {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let skip_unless = |k, jf| libc::sock_filter { code: 0x15, jt: 0, jf, k };
    // Of `struct seccomp_data`: the number is at 0, the low half of the second argument at 24. The clock is read by
    // the vDSO where it can be, and the call is not the machine's where it cannot.
    let (load_number, load_ioctl) = (statement(0x20, 0), statement(0x20, 24));
    let (permit, kill) = (statement(0x06, 0x7fff_0000), statement(0x06, 0x8000_0000));
    // Freeing it would be a system call too many, should it be one.
    let mut program = ManuallyDrop::new(vec![load_number]);
    for call in [libc::SYS_exit_group, libc::SYS_clock_gettime] {
        program.extend([skip_unless(u32::try_from(call).unwrap(), 1), permit]);
    }
    program.extend([skip_unless(u32::try_from(libc::SYS_ioctl).unwrap(), 1 + 2 * u8::try_from(ioctls.len()).unwrap())]);
    program.push(load_ioctl);
    for ioctl in ioctls {
        program.extend([skip_unless(*ioctl, 1), permit]);
    }
    program.push(kill);
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: a plain system call.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is alive, and as long as it says.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(set, 0);
}

/// What restoring registers takes: nothing, but for processors whose `xrstor` leaves something behind.
fn ioctls() -> &'static [u32] {
    let vendor = __cpuid(0).ebx.to_le_bytes();
    let leaves = (vendor == *b"Auth" || vendor == *b"Hygo") && __cpuid(0x8000_0008).ebx & 1 << 2 == 0;
    if leaves { &[KVM_RUN, KVM_SET_XSAVE] } else { &[KVM_RUN] }
}

fn child(function: &Function, filtered: bool) -> ! {
    let mut response = Response::default();
    let deadline = in_seconds(60);
    let machine = serve(function.boot().unwrap(), &mut response, deadline);
    if filtered {
        allow(ioctls());
    }
    let before = allocations::so_far();
    let _machine = ManuallyDrop::new(serve(machine, &mut response, deadline));
    let took = allocations::so_far() - before;
    // SAFETY: ends the process at once, by one system call.
    unsafe { libc::_exit(if took == 0 { 0 } else { TOOK_MEMORY }) }
}

/// Runs this very test again in a process of its own, as the child.
fn spawn(test: &str, role: &str) -> std::process::ExitStatus {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1"]).env(CHILD, role).output().unwrap().status
}

#[test]
fn a_steady_machine_asks_the_kernel_for_nothing_but_to_run_it() {
    const NAME: &str = "a_steady_machine_asks_the_kernel_for_nothing_but_to_run_it";
    let Some(function) = Function::new("echo") else { return };
    match env::var(CHILD).as_deref() {
        Ok("steady") => child(&function, true),
        // The filter does filter: a new machine takes more.
        Ok(_) => {
            allow(ioctls());
            let _ = function.boot();
            // SAFETY: as above; the filter ended the process before.
            unsafe { libc::_exit(0) }
        }
        Err(_) => {
            // A thread that got no processor for a tenth of a second has to wake the one that watches deadlines.
            let mut attempts = (0..5).map(|_| spawn(NAME, "steady"));
            let steady = attempts.find(|status| status.signal().is_none()).unwrap_or_else(|| spawn(NAME, "steady"));
            assert_eq!(steady.signal(), None, "a system call other than KVM_RUN: {steady}");
            assert!(steady.success(), "{steady}");
            assert_eq!(spawn(NAME, "new").signal(), Some(libc::SIGSYS));
        }
    }
}

#[test]
fn a_steady_machine_takes_no_memory() {
    let Some(function) = Function::new("echo") else { return };
    let mut response = Response::default();
    let deadline = in_seconds(60);
    let machine = serve(function.boot().unwrap(), &mut response, deadline);
    let before = allocations::so_far();
    let machine = serve(machine, &mut response, deadline);
    assert_eq!(allocations::so_far() - before, 0, "allocations in {CALLS} requests and rewinds");
    drop(machine);
}
