//! The results: one row a figure, with its target and what explains it; as a table for people or JSON for scripts.
//! Made by the suites, printed by `main`. Never measures anything.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::stats::Summary;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// A baseline for other figures: any value is right.
    None,
    /// At most this.
    AtMost(f64),
    /// Below this.
    Below(f64),
    /// At least this.
    AtLeast(f64),
}

impl Target {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::None => true,
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn describe(self) -> String {
        match self {
            Self::None => String::new(),
            Self::AtMost(limit) => format!("≤ {}", number(limit)),
            Self::Below(limit) => format!("< {}", number(limit)),
            Self::AtLeast(limit) => format!("≥ {}", number(limit)),
        }
    }
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    target: Target,
    details: Vec<(&'static str, Detail)>,
}

/// Something that explains a figure; its name carries its unit.
#[derive(Clone, Debug)]
enum Detail {
    Summary(Summary),
    Number(f64),
    Numbers(Vec<f64>),
}

impl Row {
    /// A figure without details yet.
    pub(crate) const fn new(name: &'static str, value: f64, unit: &'static str, target: Target) -> Self {
        Self { name, value, unit, target, details: Vec::new() }
    }

    /// Adds times or ratios.
    pub(crate) fn summary(mut self, name: &'static str, summary: Summary) -> Self {
        self.details.push((name, Detail::Summary(summary)));
        self
    }

    /// Adds a number.
    pub(crate) fn number(mut self, name: &'static str, value: f64) -> Self {
        self.details.push((name, Detail::Number(value)));
        self
    }

    fn is_met(&self) -> bool {
        self.target.is_met_by(self.value)
    }

    /// The row of several runs of its suite: the one in the middle, with the values of all.
    pub(crate) fn middle_of(mut runs: Vec<Self>) -> Option<Self> {
        let values: Vec<f64> = runs.iter().map(|row| row.value).collect();
        runs.sort_by(|one, other| one.value.total_cmp(&other.value));
        let middle = runs.len().saturating_sub(1) / 2;
        let mut row = runs.into_iter().nth(middle)?;
        if values.len() > 1 {
            row.details.push(("runs", Detail::Numbers(values)));
        }
        Some(row)
    }

    /// `{"name":…,"value":…,"unit":…,"detail":{…}}`.
    pub(crate) fn to_json(&self) -> Value {
        let mut detail: Map<String, Value> = self
            .details
            .iter()
            .map(|(name, detail)| {
                let value = match detail {
                    Detail::Summary(summary) => json!(summary),
                    Detail::Number(value) => json!(value),
                    Detail::Numbers(values) => json!(values),
                };
                ((*name).to_owned(), value)
            })
            .collect();
        if self.target != Target::None {
            detail.insert("target".to_owned(), json!(self.target.describe()));
            detail.insert("met".to_owned(), json!(self.is_met()));
        }
        json!({ "name": self.name, "value": self.value, "unit": self.unit, "detail": detail })
    }
}

/// A number as people read it: about four digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 1000.0 || value.fract() == 0.0 => 0,
        large if large >= 100.0 => 1,
        large if large >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// The table: each figure, and below it what explains it.
pub(crate) fn render(machine: &str, rows: &[Row]) -> String {
    let mut text = format!("{machine}\n\n");
    line(&mut text, ["figure", "value / median", "unit", "p99", "samples", "target", ""]);
    for row in rows {
        let met = match row.target {
            Target::None => "",
            _ if row.is_met() => "met",
            _ => "MISSED",
        };
        line(&mut text, [row.name, &number(row.value), row.unit, "", "", &row.target.describe(), met]);
        for (name, detail) in &row.details {
            let name = format!("  {name}");
            match detail {
                Detail::Summary(Summary { median, p99, count }) => {
                    line(&mut text, [&name, &number(*median), "", &number(*p99), &count.to_string(), "", ""]);
                }
                Detail::Number(value) => line(&mut text, [&name, &number(*value), "", "", "", "", ""]),
                Detail::Numbers(values) => {
                    let values: Vec<_> = values.iter().map(|value| number(*value)).collect();
                    line(&mut text, [&name, &values.join(" "), "", "", "", "", ""]);
                }
            }
        }
    }
    text
}

fn line(text: &mut String, [name, value, unit, p99, count, target, met]: [&str; 7]) {
    let mut row = String::new();
    // Writing to a string cannot fail.
    let _ = write!(row, "{name:<34}{value:>15} {unit:<6}{p99:>12}{count:>9}  {target:<10}{met}");
    text.push_str(row.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64) -> Row {
        Row::new("x.y_us", value, "µs", Target::AtMost(2.5)).number("exits_per_call", 1.0)
    }

    #[test]
    fn json_has_the_four_keys_that_scripts_read() {
        let detail = json!({ "exits_per_call": 1.0, "target": "≤ 2.500", "met": true });
        assert_eq!(row(2.5).to_json(), json!({ "name": "x.y_us", "value": 2.5, "unit": "µs", "detail": detail }));
    }

    #[test]
    fn a_missed_target_stands_out() {
        let text = render("a machine", &[row(2.5), row(2.6)]);
        assert!(
            text.contains("a machine\n") && text.contains("≤ 2.500   met\n") && text.contains("MISSED\n"),
            "{text}"
        );
        assert_eq!(row(2.6).to_json()["detail"]["met"], json!(false));
        assert_eq!(Target::Below(1.0).is_met_by(1.0), Target::AtMost(0.5).is_met_by(1.0));
        assert!(Target::AtLeast(0.3).is_met_by(0.3) && !Target::AtLeast(0.3).is_met_by(0.29));
    }

    #[test]
    fn of_several_runs_the_middle_one_counts_and_all_are_told() {
        let middle = Row::middle_of(vec![row(3.0), row(1.0), row(2.0)]);
        let middle = middle.map(|row| row.to_json()).unwrap_or_default();
        assert_eq!((&middle["value"], &middle["detail"]["runs"]), (&json!(2.0), &json!([3.0, 1.0, 2.0])));
    }
}
