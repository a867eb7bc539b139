//! A chart of bars: a group below the other, its name to the left, its numbers to the right.

use super::draw::{Anchor, Drawing, LINE, Svg, WIDTH, text_width, wrap};
use super::number::GAP;
use super::scale::Span;
use super::{Bars, Group, Unit, Value};

/// Thickness of a bar, and from one to the next.
const BAR: f64 = 13.0;
const PITCH: f64 = 16.0;
/// Between groups.
const GROUP_GAP: f64 = 13.0;
/// At most for names.
const NAMES: f64 = 158.0;

pub(super) fn draw(bars: &Bars, id: &str) -> Drawing {
    let mut svg = Svg::default();
    let series = bars.series.len().min(4);
    let marks = bars.marks.len().min(3);
    if series > 2 {
        svg.fillings(id);
    }
    let mut y =
        svg.legend(0.0, 16.0, bars.series.iter().take(series).map(String::as_str), |svg, i, (x, y)| {
            svg.bar(id, style(i, series), (x + 0.5, y - 5.5), (15.0, 11.0));
        });
    if marks > 0 {
        y = svg.legend(y + 3.0, 16.0, bars.marks.iter().take(marks).map(String::as_str), |svg, i, (x, y)| {
            mark(svg, i, x + 8.0, y - 7.0, y + 7.0);
        });
    }
    if bars.groups.is_empty() {
        svg.text("u", (0.0, y + LINE + 8.0), Anchor::Start, "Nothing was measured.");
        return Drawing { height: y + LINE + 16.0, body: svg.body };
    }

    let names: Vec<Vec<String>> = bars.groups.iter().map(|g| wrap(&g.label, NAMES, 3)).collect();
    let notes: Vec<Vec<String>> =
        bars.groups.iter().map(|g| g.note.as_ref().map_or(Vec::new(), |n| wrap(n, NAMES, 2))).collect();
    let widest = |texts: &mut dyn Iterator<Item = &String>| texts.map(|t| text_width(t)).fold(0.0, f64::max);
    let left = widest(&mut names.iter().chain(&notes).flatten()) + 10.0;
    let shown: Vec<Vec<String>> = bars.groups.iter().map(|g| row(bars, g, series)).collect();
    let right = WIDTH - widest(&mut shown.iter().flatten()) - 10.0;
    let span = span(bars).drawn(left, right);
    let height = |i: usize| {
        let text = (names[i].len() + notes[i].len()) as f64 * LINE;
        text.max(series.max(1) as f64 * PITCH)
    };
    // The axis of a long chart is at both ends.
    let far = (0..bars.groups.len()).map(|i| height(i) + GROUP_GAP).sum::<f64>() > 620.0;
    let top = y + 12.0 + if far { LINE } else { 0.0 };
    let bottom = top + (0..bars.groups.len()).map(|i| height(i) + GROUP_GAP).sum::<f64>();

    let (ticks, step) = span.ticks(((right - left) / 44.0) as usize);
    let mut free = f64::NEG_INFINITY;
    for &t in &ticks {
        let (x, text) = (span.at(t), bars.unit.tick(t, step));
        svg.line("g", (x, top), (x, bottom));
        let half = text_width(&text) / 2.0;
        if x - half > free {
            svg.text("u", (x, bottom + LINE), Anchor::Middle, &text);
            if far {
                svg.text("u", (x, top - 5.0), Anchor::Middle, &text);
            }
            free = x + half + 6.0;
        }
    }
    let base = span.at(0.0);

    let mut y = top + GROUP_GAP / 2.0;
    for (i, group) in bars.groups.iter().enumerate() {
        let height = height(i);
        let text = (names[i].len() + notes[i].len()) as f64 * LINE;
        let mut line = y + (height - text) / 2.0 + LINE - 4.0;
        for (class, text) in names[i].iter().map(|t| ("t", t)).chain(notes[i].iter().map(|t| ("u", t))) {
            svg.text(class, (0.0, line), Anchor::Start, text);
            line += LINE;
        }
        let first = y + (height - series as f64 * PITCH) / 2.0 + (PITCH - BAR) / 2.0;
        for s in 0..series {
            let at = first + s as f64 * PITCH;
            let muted = shown[i][s] == GAP;
            svg.text(if muted { "u" } else { "t" }, (WIDTH, at + BAR - 2.0), Anchor::End, &shown[i][s]);
            let Some(value) = finite(group.values.get(s)) else { continue };
            let name = format!("{}, {}: {}", group.label, bars.series[s], bars.unit.show_with_error(value));
            svg.named(&name, |svg| {
                let x = span.at(value.value);
                svg.bar(id, style(s, series), (x.min(base), at), ((x - base).abs().max(0.5), BAR));
                if let Some(e) = value.error.filter(|e| e.is_finite()) {
                    error(svg, (span.at(value.value - e), span.at(value.value + e)), at + BAR / 2.0);
                }
            });
        }
        let (above, below) = (first - 3.0, first + series as f64 * PITCH - (PITCH - BAR) + 3.0);
        for m in 0..marks {
            let value = group.marks.get(m).copied().flatten().filter(|v| v.is_finite());
            let Some(value) = value else { continue };
            let name = format!("{}, {}: {}", group.label, bars.marks[m], bars.unit.show(value));
            svg.named(&name, |svg| mark(svg, m, span.at(value), above, below));
        }
        y += height + GROUP_GAP;
    }
    svg.line("z", (base, top), (base, bottom));
    let mut end = bottom + LINE + 4.0;
    for line in wrap(&bars.axis, WIDTH - left, 2) {
        end += LINE;
        svg.text("u", ((left + right) / 2.0, end), Anchor::Middle, &line);
    }
    Drawing { height: end + 6.0, body: svg.body }
}

/// A single series is solid.
fn style(i: usize, series: usize) -> usize {
    if series == 1 { 1 } else { i }
}

fn row(bars: &Bars, group: &Group, series: usize) -> Vec<String> {
    (0..series)
        .map(|s| finite(group.values.get(s)).map_or_else(|| GAP.into(), |v| bars.unit.show(v.value)))
        .collect()
}

/// The value, if there is one.
pub(super) fn finite(value: Option<&Option<Value>>) -> Option<Value> {
    value.copied().flatten().filter(|v| v.value.is_finite())
}

/// From zero to all that is shown.
pub(super) fn span(bars: &Bars) -> Span {
    let ends = |v: &Value| {
        let (error, high) = (v.error.unwrap_or(0.0), v.value + v.error.unwrap_or(0.0));
        // No share is more than all.
        let all = bars.unit == Unit::Percent && v.value <= 1.0;
        [v.value, v.value - error, if all { high.min(1.0) } else { high }]
    };
    let values = bars
        .groups
        .iter()
        .flat_map(|g| g.values.iter().flatten().flat_map(ends).chain(g.marks.iter().copied().flatten()));
    Span::linear(bars.range, values.chain([0.0]), 4)
}

fn error(svg: &mut Svg, (from, to): (f64, f64), y: f64) {
    svg.line("halo", (from, y), (to, y));
    svg.line("e", (from, y), (to, y));
    for x in [from, to] {
        svg.line("e", (x, y - 3.0), (x, y + 3.0));
    }
}

fn mark(svg: &mut Svg, i: usize, x: f64, from: f64, to: f64) {
    svg.line("halo", (x, from), (x, to));
    svg.line(if i == 1 { "m m1" } else { "m" }, (x, from), (x, to));
    match i {
        1 => svg.path("md", &[(x, from - 4.0), (x + 3.6, from), (x, from + 4.0), (x - 3.6, from)], true),
        2 => svg.rect("md", (x - 3.0, from - 3.0), (6.0, 6.0), ""),
        _ => {}
    }
}
