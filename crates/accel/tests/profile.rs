//! Promises about profiles: what operations took and what callers add is one list, bounded, and nothing unless it is
//! enabled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use kernlet_abi::{
    accel::{ProfileRegion, REGION_NAME_MAX, operation},
    hypercall::status,
};
use kernlet_accel::{AccelError, Arg, ArgError, Data, Dims, Dtype, REGIONS_MAX, Region, Runtime, Session};
use proptest::prelude::*;
use support::{Break, session};
use zerocopy::{FromBytes as _, IntoBytes as _};

fn region(entries: u64, nanos: u64) -> Region {
    let time = Duration::from_nanos(nanos);
    Region { entries, total: time * u32::try_from(entries).unwrap(), min: time, max: time }
}

/// Hands over regions, and gets up to `room` of all.
fn exchange(session: &Session, theirs: &[ProfileRegion], room: usize) -> Result<Vec<ProfileRegion>, AccelError> {
    let mut all = vec![ProfileRegion::EMPTY; room];
    let mut args = [Arg::bytes(Data::In(theirs.as_bytes())), Arg::bytes(Data::Out(all.as_mut_bytes()))];
    session.run(operation::PROFILE, &mut args, None)?;
    let written = usize::try_from(args[1].written).unwrap();
    all.truncate(written / size_of::<ProfileRegion>());
    Ok(all)
}

#[test]
fn what_operations_took_is_kept_by_operation_and_plugin() {
    let session = session();
    session.run(operation::NOOP, &mut [], None).unwrap();
    assert!(session.profile().regions().is_empty(), "nothing is kept unless it is enabled");
    session.profile().enable(true);
    for _ in 0..3 {
        session.run(operation::NOOP, &mut [], None).unwrap();
    }
    let regions = session.profile().regions();
    let [(name, region)] = &regions[..] else { panic!("{regions:?}") };
    assert_eq!((name.as_str(), region.entries), ("noop (all)", 3));
    assert!(region.min <= region.max && region.max <= region.total);
    session.profile().enable(false);
    session.run(operation::NOOP, &mut [], None).unwrap();
    assert_eq!(session.profile().regions(), regions);
    session.profile().clear();
    assert!(session.profile().regions().is_empty());
}

#[test]
fn what_failed_is_a_region_too() {
    let session = Runtime::new(vec![std::sync::Arc::new(Break)]).session();
    session.profile().enable(true);
    session.run(operation::NOOP, &mut [], None).unwrap_err();
    assert_eq!(session.profile().regions()[0].0, "noop (failed)");
}

#[test]
fn regions_of_the_caller_are_merged_by_name() {
    let session = session();
    session.profile().enable(true);
    let first = [region(1, 10).to_abi("parse"), region(2, 5).to_abi("answer")];
    let all = exchange(&session, &first, 10).unwrap();
    assert_eq!(all.iter().map(ProfileRegion::name).collect::<Vec<_>>(), ["answer", "parse"]);
    assert_eq!(all[1], first[0]);
    let all = exchange(&session, &[region(1, 30).to_abi("parse")], 10).unwrap();
    let ProfileRegion { entries, total_ns, min_ns, max_ns, .. } = all[1];
    assert_eq!((entries, total_ns, min_ns, max_ns), (2, 40, 10, 30));
    // Sums do not run over.
    let huge = ProfileRegion { entries: u64::MAX, total_ns: u64::MAX, ..region(1, 1).to_abi("parse") };
    for _ in 0..2 {
        let all = exchange(&session, &[huge], 10).unwrap();
        assert_eq!(all[1].entries, u64::MAX);
    }
}

#[test]
fn a_profile_is_each_sessions_own() {
    let one = session();
    let other = one.runtime().session();
    one.profile().enable(true);
    other.profile().enable(true);
    exchange(&one, &[region(1, 1).to_abi("mine")], 0).unwrap();
    assert!(exchange(&other, &[], 10).unwrap().is_empty());
}

#[test]
fn a_profile_that_is_not_enabled_takes_nothing() {
    let session = session();
    assert!(exchange(&session, &[region(1, 1).to_abi("mine")], 10).unwrap().is_empty());
}

#[test]
fn a_profile_never_grows_beyond_its_bound() {
    let session = session();
    session.profile().enable(true);
    for start in (0..2000).step_by(100) {
        let many: Vec<_> = (start..start + 100).map(|index| region(1, 1).to_abi(&format!("{index:04}"))).collect();
        exchange(&session, &many, 0).unwrap();
    }
    assert_eq!(session.profile().regions().len(), REGIONS_MAX);
    // Those that are there go on.
    let all = exchange(&session, &[region(1, 1).to_abi("0000")], 2 * REGIONS_MAX).unwrap();
    assert_eq!((all.len(), all[0].entries), (REGIONS_MAX, 2));
    // As many as there is room for.
    assert_eq!(exchange(&session, &[], 3).unwrap().len(), 3);
}

#[test]
fn a_name_that_is_none_is_left_out() {
    let session = session();
    session.profile().enable(true);
    let with_len = |name_len| ProfileRegion { name_len, ..region(1, 1).to_abi("name") };
    let mut no_text = region(1, 1).to_abi("name");
    no_text.name[0] = 0xff;
    let theirs = [with_len(0), with_len(61), with_len(u32::MAX), no_text, region(1, 1).to_abi("a\nb")];
    assert!(exchange(&session, &theirs, 10).unwrap().is_empty());
    let long = "ü".repeat(REGION_NAME_MAX);
    assert_eq!(region(1, 1).to_abi(&long).name(), "ü".repeat(REGION_NAME_MAX / 2));
}

#[test]
fn regions_are_whole_and_aligned() {
    let session = session();
    session.profile().enable(true);
    let mut words = [0_u64; 30];
    let bytes = words.as_mut_bytes();
    let wrong = |theirs: Arg<'_>, all: Arg<'_>| match session.run(operation::PROFILE, &mut [theirs, all], None) {
        Err(AccelError::BadArg { index, source, .. }) => (index, source),
        other => panic!("{other:?}"),
    };
    let none = || Arg::bytes(Data::In(&[]));
    let no_room = || Arg::bytes(Data::Out(&mut []));
    assert_eq!(wrong(Arg::bytes(Data::In(&bytes[..95])), no_room()), (0, ArgError::Ragged { element: 96, got: 95 }));
    assert_eq!(wrong(Arg::bytes(Data::In(&bytes[1..97])), no_room()), (0, ArgError::Misaligned { align: 8 }));
    assert!(matches!(wrong(Arg::new(Data::In(&[]), Dtype::F32, Dims::NONE), no_room()), (0, ArgError::Type { .. })));
    assert!(matches!(wrong(no_room(), none()), (0, ArgError::Access { .. })));
    assert_eq!(wrong(none(), Arg::bytes(Data::Out(&mut bytes[..97]))), (1, ArgError::Ragged { element: 96, got: 97 }));
    assert_eq!(wrong(none(), Arg::bytes(Data::Out(&mut bytes[4..100]))), (1, ArgError::Misaligned { align: 8 }));
    let error = session.run(operation::PROFILE, &mut [none()], None).unwrap_err();
    assert_eq!(error.status(), status::EINVAL);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn whatever_a_guest_hands_over_the_profile_stays_bounded(
        bytes in prop::collection::vec(any::<u8>(), 0..20 * size_of::<ProfileRegion>()),
    ) {
        let session = session();
        session.profile().enable(true);
        let count = bytes.len() / size_of::<ProfileRegion>();
        let theirs: Vec<_> = bytes.chunks_exact(size_of::<ProfileRegion>())
            .map(|bytes| ProfileRegion::read_from_bytes(bytes).unwrap())
            .collect();
        let all = exchange(&session, &theirs, 30).unwrap();
        prop_assert!(all.len() <= count);
        prop_assert!(all.iter().all(|region| !region.name().is_empty()));
    }
}
