//! What commands write: results to standard output, everything else to standard error.

use std::io::Write;

/// Writes a line to standard output. A closed pipe (`dalston jobs list | head`) ends the program quietly, as it should;
/// any other failure ends it with a message, since a result that went nowhere is no success.
pub fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()) {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        note(format!("dalston: writing to standard output: {error}"));
        std::process::exit(1);
    }
}

/// Writes a line to standard output for whoever looks; a server goes on when it cannot.
pub fn announce(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.as_ref())
        .and_then(|()| out.flush())
        .ok();
}

/// Writes text that ends its own lines to standard output.
pub fn text(text: &str) {
    if !text.is_empty() {
        line(text.strip_suffix('\n').unwrap_or(text));
    }
}

/// Writes a value as indented JSON to standard output.
pub fn json(value: &serde_json::Value) {
    line(format!("{value:#}"));
}

/// Writes a line to standard error.
pub fn note(text: impl AsRef<str>) {
    // Nowhere is left to report a closed standard error to.
    writeln!(std::io::stderr(), "{}", text.as_ref()).ok();
}

/// An error with its causes on one line. Many libraries' errors say their cause themselves; it is not said again.
pub fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        if said.is_empty() || said.ends_with(&cause) {
            return if said.is_empty() { cause } else { said };
        }
        format!("{said}: {cause}")
    })
}

/// Lays rows out in columns two spaces apart, under a heading; the last column is not padded.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([heading[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let layout = |cells: [&str; N]| {
        let mut text = String::new();
        for (column, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < N {
                text.extend(std::iter::repeat_n(
                    ' ',
                    widths[column] + 2 - cell.chars().count(),
                ));
            }
        }
        text.trim_end().to_owned()
    };
    let body = rows
        .iter()
        .map(|row| layout(row.each_ref().map(String::as_str)));
    std::iter::once(layout(heading))
        .chain(body)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A duration in seconds for people: `7.2 s`, `4:05`, `1:02:03`.
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours == 0 {
        format!("{minutes}:{seconds:02}")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02}")
    }
}

/// A size for people, in decimal units: `512 B`, `7.2 MB`.
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_script() {
        let rows = [
            ["a".to_owned(), "ü".to_owned(), "x".to_owned()],
            ["long".to_owned(), String::new(), "yy".to_owned()],
        ];
        assert_eq!(
            table(["ID", "NAME", "Z"], &rows),
            "ID    NAME  Z\na     ü     x\nlong        yy"
        );
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no such file")
            .context("opening x: no such file")
            .context("reading the list");
        assert_eq!(chain(&error), "reading the list: opening x: no such file");
    }

    #[test]
    fn durations_and_sizes_read_well_at_every_scale() {
        assert_eq!(
            [duration(7.16), duration(245.0), duration(3723.4)],
            ["7.2 s", "4:05", "1:02:03"]
        );
        assert_eq!(
            [
                bytes(512),
                bytes(7_200_000),
                bytes(999_999),
                bytes(3_000_000_000)
            ],
            ["512 B", "7.2 MB", "1.0 MB", "3.0 GB"]
        );
    }
}
