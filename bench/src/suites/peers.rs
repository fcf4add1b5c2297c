//! A clean invocation, 64 bytes in and the same out, over other ways to have one: bare KVM's one exit (which is no
//! invocation, but the floor of one), a process for each request, an instance of WebAssembly for each. All in turn.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kernlet_watchdog::{Function, Log};

use super::invoke::{BODY, REQUEST, is_echo};
use crate::{
    bare::BareKvm,
    ring0,
    stats::{Plan, Times, in_turn, timed},
    table::{Row, Target},
    workshop::Workshop,
};

pub(super) const FIGURES: &[&str] = &["peers.kernlet_us", "peers.floor_us", "peers.fork_exec_us", "peers.wasmtime_us"];

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    match ring0::vectors_work()? {
        Ok(()) => eprintln!("peers: Hyperlight is left out: no guest of its own is built here"),
        Err(exit) => eprintln!(
            "peers: Hyperlight is left out: its guests use vector instructions at ring 0, and KVM here ends a guest that \
             does ({exit})"
        ),
    }
    let program = workshop.static_echo()?;
    let kvm = BareKvm::open()?;
    let mut bare = kvm.create()?;
    let function = Function::open(&workshop.echo()?.spec()?, &Log::start(std::io::sink(), false)?)?;
    let mut worker = function.worker();
    let mut exits = 0;
    let wasm = match wasm::Echo::open() {
        Ok(wasm) => Some(wasm),
        Err(reason) => {
            eprintln!("peers: wasmtime is left out: {reason:#}");
            None
        }
    };

    let mut kernlet = || {
        let (time, response) = timed(|| worker.invoke(&REQUEST))?;
        is_echo(&response)?;
        exits = response.usage.exits;
        Ok(time)
    };
    let mut floor = || timed(|| bare.one_exit()).map(|(time, ())| time);
    let mut fork = || {
        let (time, output) = timed(|| through(program))?;
        ensure!(output == BODY, "the static program gave something else back");
        Ok(time)
    };
    let mut instance = || match &wasm {
        Some(wasm) => {
            let (time, output) = timed(|| wasm.call(BODY))?;
            ensure!(output == *BODY, "the instance gave something else back");
            Ok(time)
        }
        None => Ok(Duration::ZERO),
    };
    let plan = Plan { warm_up: 200, calls: 50, ..Plan::singly(Duration::from_secs(12)) };
    let sides = in_turn(plan, [&mut kernlet, &mut floor, &mut fork, &mut instance])?;
    let [kernlet, floor, fork, instance] = &sides;
    let row = |name, times: &Times| {
        Row::new(name, times.micros().median, "µs", Target::None)
            .summary("us", times.micros())
            .summary("over_kernlet", times.over(kernlet))
    };
    let ours = row(FIGURES[0], kernlet).number("exits_per_call", f64::from(exits));
    let mut rows = vec![ours, row(FIGURES[1], floor), row(FIGURES[2], fork)];
    if wasm.is_some() {
        rows.push(row(FIGURES[3], instance));
    }
    Ok(rows)
}

/// The body through a program that is started for it.
fn through(program: &Path) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("the program has no standard input")?.write_all(BODY)?;
    let mut output = Vec::with_capacity(BODY.len());
    child.stdout.take().context("the program has no standard output")?.read_to_end(&mut output)?;
    ensure!(child.wait()?.success(), "the static program failed");
    Ok(output)
}

#[cfg(feature = "wasmtime")]
mod wasm {
    //! WebAssembly as those run it who want a clean instance for every request: compiled once, instances from a pool,
    //! memory copied on write.

    use wasmtime::{
        Config, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig, Store,
    };

    use super::BODY;

    /// 2 MiB of memory with some initial data; copies what is at 0 to 8192.
    const PROGRAM: &str = r#"(module
        (memory (export "memory") 32 32)
        (data (i32.const 4096) "what the module initialised")
        (func (export "echo") (param $length i32) (result i32)
            (memory.copy (i32.const 8192) (i32.const 0) (local.get $length))
            (i32.const 8192)))"#;

    /// Bytes of an instance's memory that are zeroed in place rather than given back to the system: as much as a
    /// small request touches, several times over.
    const KEPT_RESIDENT: usize = 128 * 1024;

    pub(super) struct Echo {
        engine: Engine,
        instance: InstancePre<()>,
    }

    impl Echo {
        pub(super) fn open() -> anyhow::Result<Self> {
            Self::compile().map_err(|error| anyhow::anyhow!("{error:#}"))
        }

        fn compile() -> wasmtime::Result<Self> {
            let mut pool = PoolingAllocationConfig::new();
            pool.total_core_instances(16).total_memories(16).max_memory_size(2 << 20);
            pool.linear_memory_keep_resident(KEPT_RESIDENT);
            let mut config = Config::new();
            config.memory_init_cow(true).allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
            let engine = Engine::new(&config)?;
            let module = Module::new(&engine, PROGRAM)?;
            let instance = Linker::new(&engine).instantiate_pre(&module)?;
            Ok(Self { engine, instance })
        }

        /// A new instance, the body in, the body out, and the end of the instance.
        pub(super) fn call(&self, body: &[u8; BODY.len()]) -> anyhow::Result<[u8; BODY.len()]> {
            self.try_call(body).map_err(|error| anyhow::anyhow!("{error:#}"))
        }

        fn try_call(&self, body: &[u8; BODY.len()]) -> wasmtime::Result<[u8; BODY.len()]> {
            let mut store = Store::new(&self.engine, ());
            let instance = self.instance.instantiate(&mut store)?;
            let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| wasmtime::Error::msg("no memory"))?;
            let echo = instance.get_typed_func::<i32, i32>(&mut store, "echo")?;
            memory.write(&mut store, 0, body)?;
            let at = echo.call(&mut store, i32::try_from(body.len())?)?;
            let mut output = [0; BODY.len()];
            memory.read(&store, usize::try_from(at)?, &mut output)?;
            Ok(output)
        }
    }

    /// Keeps the pool honest: an instance must not see what another wrote.
    #[cfg(test)]
    #[test]
    fn instances_are_clean() -> anyhow::Result<()> {
        let echo = Echo::open()?;
        anyhow::ensure!(echo.call(BODY)? == *BODY);
        anyhow::ensure!(echo.call(&[0; BODY.len()])? == [0; BODY.len()]);
        Ok(())
    }
}

#[cfg(not(feature = "wasmtime"))]
mod wasm {
    //! A build without wasmtime.

    use super::BODY;

    pub(super) struct Echo;

    impl Echo {
        pub(super) fn open() -> anyhow::Result<Self> {
            anyhow::bail!("this program was built without its feature `wasmtime`")
        }

        pub(super) fn call(&self, body: &[u8; BODY.len()]) -> anyhow::Result<[u8; BODY.len()]> {
            Ok(*body)
        }
    }
}
