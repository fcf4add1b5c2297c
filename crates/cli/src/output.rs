//! How the program writes: results on stdout, everything else on stderr, errors with their causes.
//! Used by every subcommand. It never writes colour to anything but a terminal, nor against `NO_COLOR`.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Whoever read our stdout has closed it (`kernlet list | head`): a reason to stop, not an error.
#[derive(Debug)]
pub(crate) struct OutputClosed;

impl std::fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for OutputClosed {}

/// Writes bytes to stdout as they are, and sees them off.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => anyhow::Error::new(OutputClosed),
        _ => anyhow::Error::new(error).context("cannot write to stdout"),
    })
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a value to stdout as indented JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Writes a remark to stderr. Nothing is to be done when even that is closed.
pub(crate) fn note(text: &str) {
    let _unwritten = writeln!(io::stderr().lock(), "{text}");
}

/// Prints an error and what caused it, one line each, without saying anything twice.
pub(crate) fn print_error(error: &anyhow::Error) {
    let paint = Paint::for_stderr();
    note(&format!("{} {error}", paint.red("error:")));
    for cause in causes(error) {
        note(&format!("  {} {cause}", paint.bold("cause:")));
    }
}

/// The chain below an error, without the links whose text the one above already ends with.
fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut above = error.to_string();
    let mut kept = Vec::new();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !above.ends_with(&cause) {
            kept.push(cause.clone());
        }
        above = cause;
    }
    kept
}

/// Colours for one stream: none where they would not be seen as colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    /// For text that goes to stdout.
    pub(crate) fn for_stdout() -> Self {
        Self(io::stdout().is_terminal() && wanted())
    }

    /// For text that goes to stderr.
    pub(crate) fn for_stderr() -> Self {
        Self(io::stderr().is_terminal() && wanted())
    }

    pub(crate) fn bold<'a>(self, text: &'a str) -> Cow<'a, str> {
        self.sgr("1", text)
    }

    pub(crate) fn dim<'a>(self, text: &'a str) -> Cow<'a, str> {
        self.sgr("2", text)
    }

    pub(crate) fn red<'a>(self, text: &'a str) -> Cow<'a, str> {
        self.sgr("1;31", text)
    }

    pub(crate) fn yellow<'a>(self, text: &'a str) -> Cow<'a, str> {
        self.sgr("33", text)
    }

    pub(crate) fn green<'a>(self, text: &'a str) -> Cow<'a, str> {
        self.sgr("32", text)
    }

    /// ECMA-48 "select graphic rendition" around the text.
    fn sgr<'a>(self, code: &str, text: &'a str) -> Cow<'a, str> {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }
}

/// The user's wish, as <https://no-color.org> and terminals without colours express it.
fn wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// An aligned table: columns as wide as their widest cell, two spaces between, none at the end.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width_of = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width_of);
    let render = |cells: [&str; N]| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(head)];
    lines.extend(rows.iter().map(|row| render(std::array::from_fn(|column| row[column].as_str()))));
    lines.join("\n")
}

/// `1234567` bytes as `1.2 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const STEP: f64 = 1024.0;
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < STEP {
            break;
        }
        value /= STEP;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// Control characters but tabs written out: a function's log is a stranger's text, and must not drive the terminal.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_control = |character: char| character.is_control() && character != '\t';
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |character: char| {
        if is_control(character) { character.escape_default().to_string() } else { character.to_string() }
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// A text as one word of a POSIX shell.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A step that may take longer than a second: a spinner on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Step {
    name: String,
    started: Instant,
    spinner: ProgressBar,
}

impl Step {
    /// How often the spinner turns.
    const TURN: Duration = Duration::from_millis(120);

    /// Announces the step on stderr.
    pub(crate) fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let spinner = if io::stderr().is_terminal() { Self::spinner(&name) } else { ProgressBar::hidden() };
        if !io::stderr().is_terminal() {
            note(&format!("{name} ..."));
        }
        Self { name, started: Instant::now(), spinner }
    }

    fn spinner(name: &str) -> ProgressBar {
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg:.dim} {elapsed}") {
            spinner.set_style(style);
        }
        spinner.set_prefix(name.to_owned());
        spinner.enable_steady_tick(Self::TURN);
        spinner
    }

    /// Says what the step is at now; shown on a terminal only.
    pub(crate) fn at(&self, what: impl Into<String>) {
        self.spinner.set_message(what.into());
    }

    /// Prints lines above the spinner, to stay.
    pub(crate) fn print(&self, lines: &str) {
        self.spinner.suspend(|| note(lines));
    }

    /// Ends the step with what came of it and how long it took.
    pub(crate) fn done(self, result: &str) {
        self.spinner.finish_and_clear();
        let paint = Paint::for_stderr();
        let took = format!("({:.1} s)", self.started.elapsed().as_secs_f64());
        note(&format!("{} {}: {result} {}", paint.green("✓"), self.name, paint.dim(&took)));
    }
}

impl Drop for Step {
    /// A step that failed leaves no spinner behind; the error says the rest.
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["echo".to_owned(), "1".to_owned()], ["a-longer-name".to_owned(), "10".to_owned()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME           N\necho           1\na-longer-name  10");
    }

    #[test]
    fn a_table_without_rows_still_has_its_head() {
        assert_eq!(table(["NAME", "IMAGE"], &[]), "NAME  IMAGE");
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_suits_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(32 << 20), "32.0 MiB");
    }

    #[test]
    fn a_functions_log_does_not_drive_the_terminal() {
        assert_eq!(printable("plain\ttext, ümläuts"), "plain\ttext, ümläuts");
        assert_eq!(printable("\u{1b}]0;title\u{7}\r\u{9b}2J"), "\\u{1b}]0;title\\u{7}\\r\\u{9b}2J");
    }

    #[test]
    fn a_path_with_spaces_or_quotes_stays_one_word() {
        assert_eq!(shell_word("models/cat.jpg"), "models/cat.jpg");
        assert_eq!(shell_word("my cat's.jpg"), r"'my cat'\''s.jpg'");
    }

    #[test]
    fn an_error_is_printed_with_its_causes_and_nothing_twice() {
        let error = anyhow::anyhow!("no such file")
            .context("cannot read model: no such file")
            .context("cannot deploy classify");
        assert_eq!(causes(&error), ["cannot read model: no such file"]);
    }

    #[test]
    fn text_that_is_not_for_a_terminal_has_no_colour() {
        assert_eq!(Paint(false).red("error:"), "error:");
        assert_eq!(Paint(true).red("error:"), "\x1b[1;31merror:\x1b[0m");
    }
}
