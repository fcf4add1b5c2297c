# What people do daily. `just` lists it; `.ci/run` is all of the checks in one go.

workspaces := ". functions bench fuzz bindings/python"

[private]
default:
    @just --list --unsorted

# From a checkout to a classified photograph
demo *args:
    cargo run --release -- demo {{ args }}

# Every test; those that need /dev/kvm are skipped, loudly, where it does not open
test *args:
    cargo test --workspace {{ args }}

# The package for Python in a venv under target/, with its tests
python *args:
    test -d target/python || python3 -m venv target/python
    target/python/bin/pip install --quiet './bindings/python[test]'
    cd bindings/python && {{ justfile_directory() }}/target/python/bin/pytest {{ args }}

# Formats every workspace
fmt:
    for dir in {{ workspaces }}; do (cd $dir && cargo fmt --all) || exit 1; done

# What CI says about the text of the code: format, lints, spelling, dependencies
lint: checkers
    for dir in {{ workspaces }}; do (cd $dir && cargo fmt --all --check) || exit 1; done
    for dir in {{ workspaces }}; do (cd $dir && cargo clippy --workspace --all-targets --target-dir {{ justfile_directory() }}/target -- -D warnings) || exit 1; done
    target/checkers/bin/typos
    for dir in {{ workspaces }}; do target/checkers/bin/cargo-deny --log-level error --manifest-path $dir/Cargo.toml --config deny.toml check bans licenses sources || exit 1; done

# Known vulnerabilities in the dependencies (fetches the advisory database)
advisories: checkers
    target/checkers/bin/cargo-deny check advisories

# Measures us beside bare KVM and native plugins: `just bench floor`, `just bench classify --json`
bench *args:
    cargo run --release --manifest-path bench/Cargo.toml -- {{ args }}

# Fuzzes one target until it is stopped (cargo-fuzz and a nightly compiler): `just fuzz elf_loader`
fuzz target *args:
    cargo +nightly fuzz run {{ target }} {{ args }}

# The documentation of every crate
doc *args:
    cargo doc --no-deps --workspace {{ args }}

# Solo5's tenders as programs of their own, static, in target/static
tenders:
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --profile tender -p kernlet-tender --target x86_64-unknown-linux-gnu --target-dir target/static

# Whether a standard KVM (not a nested one) runs our machines: KVM-AMD inside an emulated processor
standard-kvm *tests:
    scripts/standard-kvm.sh {{ tests }}

# Everything that has to hold before a change goes in
ci:
    bash .ci/run

[private]
checkers:
    scripts/install-deps.sh --checks
