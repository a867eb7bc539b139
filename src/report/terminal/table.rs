//! Tables of aligned columns.

use super::super::{Cell, Table, Tone};
use super::{Screen, fold, pad, plain};
use console::{Style, measure_text_width};

/// Between columns.
const GAP: usize = 2;
/// Columns are not made narrower to fit; the last ones are left out then.
const NARROW: usize = 8;

impl Table {
    /// The table for a terminal.
    pub fn text(&self, screen: Screen) -> String {
        let all = self.rows.iter().map(Vec::len).chain([self.head.len()]).max().unwrap_or(0);
        let widths = self.widths(all, screen.columns());
        let missing = all - widths.len();
        let number = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).any(|c| c.number);
        let mut out: String =
            fold(&self.caption, screen.columns(), 3).iter().map(|l| screen.bold(l) + "\n").collect();
        let heads: Vec<Vec<String>> = (0..widths.len())
            .map(|c| fold(self.head.get(c).map_or("", String::as_str), widths[c], 4))
            .collect();
        let tall = heads.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..tall {
            let row = (0..widths.len()).map(|c| {
                // Names stand on the rule.
                let text = (line + heads[c].len()).checked_sub(tall).map_or("", |l| &heads[c][l]);
                screen.soft(&pad(text, widths[c], number(c)))
            });
            out += &join(row);
        }
        if tall > 0 {
            let width = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            out += &screen.soft(&"─".repeat(width));
            out.push('\n');
        }
        for row in &self.rows {
            let row = (0..widths.len()).map(|c| {
                let cell = row.get(c).cloned().unwrap_or_default();
                tone(screen, &cell, &pad(&plain(&cell.text), widths[c], cell.number))
            });
            out += &join(row);
        }
        let more = (missing > 0).then(|| format!("{missing} more columns have no room here."));
        for note in more.iter().chain(&self.note) {
            out += &fold(note, screen.columns(), usize::MAX)
                .iter()
                .map(|l| screen.soft(l) + "\n")
                .collect::<String>();
        }
        out
    }

    /// Widths of the columns that have room in `width`.
    fn widths(&self, columns: usize, width: usize) -> Vec<usize> {
        let of = |c: usize| {
            let cells =
                self.rows.iter().filter_map(|r| r.get(c)).map(|c| measure_text_width(&plain(&c.text)));
            let words = self.head.get(c).into_iter().flat_map(|h| h.split_whitespace());
            cells.chain(words.map(measure_text_width)).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..columns).map(of).collect();
        let total = |w: &[usize]| w.iter().sum::<usize>() + GAP * w.len().saturating_sub(1);
        while total(&widths) > width {
            match widths.iter_mut().max().filter(|w| **w > NARROW) {
                Some(widest) => *widest -= 1,
                None => drop(widths.pop()),
            }
        }
        widths
    }
}

fn join(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_owned() + "\n"
}

fn tone(screen: Screen, cell: &Cell, text: &str) -> String {
    match cell.tone {
        Tone::Plain => text.to_owned(),
        Tone::Strong => screen.bold(text),
        Tone::Good => screen.paint(Style::new().green(), text),
        Tone::Bad => screen.paint(Style::new().red(), text),
        Tone::Muted => screen.soft(text),
    }
}
