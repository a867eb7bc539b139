//! Bars of block characters.

use super::super::bars::{finite, span};
use super::super::number::GAP;
use super::super::{Bars, Group};
use super::{Screen, fold, pad};
use console::measure_text_width;

/// Fillings, so that series are told apart without colours.
const FILLS: [char; 4] = ['░', '█', '▒', '▓'];
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
const MARKS: [char; 3] = ['│', '┊', '◆'];

pub(super) fn draw(bars: &Bars, screen: Screen) -> String {
    let series = bars.series.len().min(4);
    let marks = bars.marks.len().min(3);
    let fill = |s: usize| if series == 1 { 1 } else { s };
    let sign = |s: usize| screen.hue(fill(s), &FILLS[fill(s)].to_string().repeat(2));
    let mut items: Vec<(String, &str)> = (0..series).map(|s| (sign(s), bars.series[s].as_str())).collect();
    items.extend((0..marks).map(|m| (screen.bold(&MARKS[m].to_string()), bars.marks[m].as_str())));
    let mut out = screen.legend(&items);
    if bars.groups.is_empty() {
        return out + &screen.soft("Nothing was measured.") + "\n";
    }

    let said = |g: &Group, s: usize| {
        finite(g.values.get(s)).map_or_else(|| GAP.into(), |v| bars.unit.show_with_error(v))
    };
    let numbers: Vec<Vec<String>> =
        bars.groups.iter().map(|g| (0..series).map(|s| said(g, s)).collect()).collect();
    let right = numbers.iter().flatten().map(|t| measure_text_width(t)).max().unwrap_or(0);
    let texts = bars.groups.iter().flat_map(|g| [Some(&g.label), g.note.as_ref()]).flatten();
    let left =
        texts.map(|t| measure_text_width(&super::plain(t))).max().unwrap_or(0).min(screen.columns() / 3);
    let room = screen.columns().saturating_sub(left + right + 3).max(4);
    let span = span(bars).drawn(0.0, room as f64);
    let base = span.at(0.0);

    for (g, group) in bars.groups.iter().enumerate() {
        let mut names: Vec<(String, bool)> =
            fold(&group.label, left, 3).into_iter().map(|l| (l, false)).collect();
        names.extend(group.note.iter().flat_map(|n| fold(n, left, 1)).map(|l| (l, true)));
        for row in 0..names.len().max(series) {
            let name = names.get(row).map_or_else(
                || " ".repeat(left),
                |(text, soft)| {
                    let text = pad(text, left, false);
                    if *soft { screen.soft(&text) } else { text }
                },
            );
            let mut cells = vec![' '; room];
            if let Some(v) = finite(group.values.get(row)).filter(|_| row < series) {
                let (from, to) = (base.min(span.at(v.value)), base.max(span.at(v.value)));
                for (c, cell) in cells.iter_mut().enumerate() {
                    let part = ((to - c as f64).clamp(0.0, 1.0) - (from - c as f64).clamp(0.0, 1.0)) * 8.0;
                    *cell = match part.round() as usize {
                        8.. => FILLS[fill(row)],
                        // Only a full block has parts.
                        n if fill(row) == 1 => EIGHTHS[n],
                        n if n >= 4 => FILLS[fill(row)],
                        _ => ' ',
                    };
                }
            }
            let marks: Vec<(usize, char)> = (0..marks)
                .filter_map(|m| {
                    Some((group.marks.get(m).copied().flatten().filter(|v| v.is_finite())?, MARKS[m]))
                })
                .map(|(v, sign)| ((span.at(v) as usize).min(room - 1), sign))
                .collect();
            let number = numbers[g].get(row).map_or("", String::as_str);
            let bar = paint(screen, &cells, &marks, fill(row));
            let number = pad(number, right, true);
            out += format!("{name} {bar} {number}").trim_end();
            out.push('\n');
        }
        if series > 1 && g + 1 < bars.groups.len() {
            out.push('\n');
        }
    }
    let (ticks, step) = span.ticks(room / 12);
    let labels = ticks.iter().map(|t| (span.at(*t) as usize, bars.unit.tick(*t, step)));
    out += &screen.soft(&under(left + 1, screen.columns(), labels));
    out + &screen.soft(&pad("", left + 1, false)) + &screen.soft(&fold(&bars.axis, room, 1).concat()) + "\n"
}

/// Cells with marks over them: stretches of one look together, so that there are few codes.
fn paint(screen: Screen, cells: &[char], marks: &[(usize, char)], hue: usize) -> String {
    let mut out = String::new();
    let mut bar = String::new();
    for (c, cell) in cells.iter().enumerate() {
        if let Some((_, sign)) = marks.iter().find(|m| m.0 == c) {
            out += &screen.hue(hue, &std::mem::take(&mut bar));
            out += &screen.bold(&sign.to_string());
        } else {
            bar.push(*cell);
        }
    }
    out + &screen.hue(hue, &bar)
}

/// A line of tick labels, each around its column and none into the next.
pub(super) fn under(left: usize, width: usize, labels: impl Iterator<Item = (usize, String)>) -> String {
    let (mut line, mut used) = (String::new(), 0);
    for (at, text) in labels {
        let size = measure_text_width(&text);
        let start = (left + at).saturating_sub(size / 2).min(width.saturating_sub(size));
        if used > 0 && start < used + 1 {
            continue;
        }
        line += &" ".repeat(start - used);
        line += &text;
        used = start + size;
    }
    line + "\n"
}
