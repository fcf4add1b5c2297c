//! Landlock: no file by its name, no TCP, no abstract sockets and no signals to others, whatever namespaces allow.
//! Called while the jail is entered. It grants nothing back: what the process needs is open.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetError, RulesetStatus, Scope,
};

/// The newest version of landlock whose rights we know. Older kernels enforce what they have.
const NEWEST: ABI = ABI::V7;

pub(crate) fn none() -> Result<String, String> {
    let failed = |error: RulesetError| format!("it cannot be used: {error}");
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self())
        .map_err(failed)?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Ok("files, TCP, abstract sockets, signals".to_owned()),
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(format!("an older one, version {effective_abi:?}: {}", partial(effective_abi)))
        }
        (_, LandlockStatus::NotEnabled) => {
            Err("this kernel has it switched off (add landlock to lsm= at boot)".to_owned())
        }
        _ => Err("this kernel does not have it (Linux 5.13 and newer do)".to_owned()),
    }
}

/// What a version before the newest enforces.
fn partial(abi: ABI) -> &'static str {
    match abi {
        ABI::Unsupported => "nothing",
        ABI::V1 | ABI::V2 | ABI::V3 => "files",
        ABI::V4 | ABI::V5 => "files, TCP",
        _ => "files, TCP, abstract sockets, signals",
    }
}
