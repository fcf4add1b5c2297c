//! From a model's logits to its best classes.
//! Called when a picture is classified. Never sorts more than the classes that are asked for, and never lets a
//! number that is none into a probability.

/// Why logits have no best classes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RankingError {
    /// One is not a number, or infinite, or none is above minus infinity.
    #[error("the model gave logits that are not finite; the model is broken or its numbers overflow")]
    NotFinite,
    /// There are none.
    #[error("the model gave no classes")]
    Empty,
}

/// The best `count` classes as (index, probability), best first; equal ones in the order of their indices.
/// Probabilities are the softmax over all classes.
pub(crate) fn best(logits: &[f32], count: usize) -> Result<Vec<(u32, f32)>, RankingError> {
    let highest = logits.iter().copied().reduce(f32::max).ok_or(RankingError::Empty)?;
    if !highest.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
        return Err(RankingError::NotFinite);
    }
    // Relative to the highest, so that no exponential overflows.
    let weight = |logit: f32| f64::from(logit - highest).exp();
    let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
    let mut classes: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let by_rank = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < classes.len() {
        classes.select_nth_unstable_by(count, by_rank);
        classes.truncate(count);
    }
    classes.sort_unstable_by(by_rank);
    #[expect(clippy::cast_possible_truncation, reason = "probabilities are given in f32")]
    let probability = |logit| (weight(logit) / total) as f32;
    Ok(classes.into_iter().map(|(class, logit)| (class, probability(logit))).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn huge_logits_do_not_overflow() {
        let ranked = best(&[f32::MAX, 3.0e38, f32::NEG_INFINITY], 3).unwrap();
        assert_eq!(ranked, [(0, 1.0), (1, 0.0), (2, 0.0)]);
    }

    #[test]
    fn logits_that_are_not_finite_are_refused() {
        assert_eq!(best(&[1.0, f32::NAN], 1), Err(RankingError::NotFinite));
        assert_eq!(best(&[f32::NAN, f32::NAN], 1), Err(RankingError::NotFinite));
        assert_eq!(best(&[1.0, f32::INFINITY], 1), Err(RankingError::NotFinite));
        assert_eq!(best(&[f32::NEG_INFINITY; 2], 1), Err(RankingError::NotFinite));
        assert_eq!(best(&[], 1), Err(RankingError::Empty));
    }

    #[test]
    fn equal_classes_come_in_the_order_of_their_indices() {
        let ranked = best(&[1.0, 2.0, 2.0, 2.0], 2).unwrap();
        assert_eq!(ranked.iter().map(|ranked| ranked.0).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_best_are_those_of_a_full_sort(
            logits in prop::collection::vec(-50.0_f32..50.0, 1..200),
            count in 1_usize..220,
        ) {
            let mut sorted: Vec<_> = (0_u32..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let ranked = best(&logits, count).unwrap();
            let expected: Vec<_> = sorted.iter().take(count).map(|class| class.0).collect();
            prop_assert_eq!(ranked.iter().map(|class| class.0).collect::<Vec<_>>(), expected);
            let total: f32 = best(&logits, logits.len()).unwrap().iter().map(|class| class.1).sum();
            prop_assert!((total - 1.0).abs() < 1e-3);
        }
    }
}
