//! Charts and tables in a terminal: of characters, with or without colours, never wider than they may be.

mod bars;
mod lines;
mod table;

use super::{Figure, Report};
use console::{Style, measure_text_width, truncate_str};

/// What is written on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Columns; less than 30 are taken as 30.
    pub width: usize,
    /// Escape codes for colours are understood.
    pub colour: bool,
}

/// Where a curve can be told by its colour alone, and a bar by its filling too.
const HUES: [u8; 4] = [33, 208, 36, 169];

impl Screen {
    fn columns(self) -> usize {
        self.width.max(30)
    }
    fn paint(self, style: Style, text: &str) -> String {
        if self.colour && !text.is_empty() {
            style.force_styling(true).apply_to(text).to_string()
        } else {
            text.to_owned()
        }
    }
    fn bold(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }
    fn soft(self, text: &str) -> String {
        self.paint(Style::new().dim(), text)
    }
    fn hue(self, i: usize, text: &str) -> String {
        self.paint(Style::new().color256(HUES[i % 4]), text)
    }

    /// Names behind their signs, in lines. A sign is painted already.
    fn legend(self, items: &[(String, &str)]) -> String {
        let (mut out, mut column) = (String::new(), 0);
        for (sign, name) in items {
            let room = self.columns() - measure_text_width(sign) - 1;
            let name = plain(name);
            let item = format!("{sign} {}", truncate_str(&name, room, "…"));
            let width = measure_text_width(&item);
            if column > 0 && column + 3 + width > self.columns() {
                out.push('\n');
                column = 0;
            } else if column > 0 {
                out.push_str("   ");
                column += 3;
            }
            out += &item;
            column += width;
        }
        if !items.is_empty() {
            out.push('\n');
        }
        out
    }

    fn paragraph(self, text: &str) -> String {
        fold(text, self.columns(), usize::MAX).into_iter().map(|l| l + "\n").collect()
    }
}

impl Report {
    /// The report for a terminal. Commands are not broken into lines, so that they can be copied.
    pub fn text(&self, screen: Screen) -> String {
        let heading = |text: &str| {
            fold(text, screen.columns(), 3).iter().map(|l| screen.bold(l) + "\n").collect::<String>()
        };
        let mut parts = vec![heading(&self.title)];
        parts.extend(self.lead.iter().map(|p| screen.paragraph(p)));
        for s in &self.sections {
            parts.push(heading(&s.title));
            parts.extend(s.text.iter().map(|p| screen.paragraph(p)));
            parts.extend(s.figures.iter().map(|f| f.text(screen)));
            parts.extend(s.tables.iter().map(|t| t.text(screen)));
        }
        parts.push(self.replay.iter().map(|c| format!("  {}\n", plain(c))).collect());
        parts.retain(|p| !p.is_empty());
        parts.join("\n")
    }
}

impl Figure {
    /// The chart for a terminal.
    pub fn text(&self, screen: Screen) -> String {
        let title: String =
            fold(self.title(), screen.columns(), 3).iter().map(|l| screen.bold(l) + "\n").collect();
        title
            + &match self {
                Self::Bars(b) => bars::draw(b, screen),
                Self::Lines(l) => lines::draw(l, screen),
            }
    }
}

/// A character a value, from the lowest to the highest of them; a space for what is not finite.
pub fn sparkline(values: &[f64]) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) = super::scale::extent(values.iter().copied()).unwrap_or((0.0, 1.0));
    let step = |v: f64| match v {
        _ if !v.is_finite() => ' ',
        _ if low == high => STEPS[3],
        _ => STEPS[(((v - low) / (high - low)).clamp(0.0, 1.0) * 7.0).round() as usize],
    };
    values.iter().map(|v| step(*v)).collect()
}

/// Text that cannot steer a terminal.
fn plain(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    text.chars().filter(|c| !turns(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text` in lines of at most `width` columns; what is left behind the last line is dotted.
fn fold(text: &str, width: usize, lines: usize) -> Vec<String> {
    let text = plain(text);
    let mut out: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        if let Some(last) =
            out.last_mut().filter(|l| measure_text_width(l) + 1 + measure_text_width(&word) <= width)
        {
            *last = format!("{last} {word}");
            continue;
        }
        while measure_text_width(&word) > width {
            let mut head = truncate_str(&word, width, "").into_owned();
            if head.is_empty() {
                head.extend(word.chars().next());
            }
            word = word[head.len()..].to_owned();
            out.push(head);
        }
        if !word.is_empty() {
            out.push(word);
        }
    }
    if out.len() > lines {
        out.truncate(lines);
        if let Some(last) = out.last_mut() {
            *last = truncate_str(&format!("{last}……"), width, "…").replace("……", "…");
        }
    }
    out
}

/// `text` filled up with spaces, at the right (or the left) of it; longer text is cut.
fn pad(text: &str, width: usize, right: bool) -> String {
    let text = truncate_str(text, width, "…");
    let space = " ".repeat(width.saturating_sub(measure_text_width(&text)));
    if right { format!("{space}{text}") } else { format!("{text}{space}") }
}
