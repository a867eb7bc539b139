//! What a chart shows, as a table: for those who listen, and for those who want the digits.

use super::bars::finite;
use super::{Bars, Cell, Figure, Lines, Table, Tone, Unit, Value, lines, scale};

/// Rows of a table that is made from a curve.
const ROWS: usize = 60;

/// The table of a chart.
pub(super) fn of(figure: &Figure) -> Table {
    match figure {
        Figure::Bars(b) => of_bars(b),
        Figure::Lines(l) => of_lines(l),
    }
}

fn cell(value: Option<Value>, unit: Unit) -> Cell {
    let cell = Cell {
        number: true,
        ..Cell::from(value.map_or_else(|| super::number::GAP.into(), |v| unit.show_with_error(v)))
    };
    if value.is_none() { cell.tone(Tone::Muted) } else { cell }
}

fn of_bars(bars: &Bars) -> Table {
    let row = |g: &super::Group| {
        let name = g.note.as_ref().map_or_else(|| g.label.clone(), |n| format!("{} ({n})", g.label));
        let values = (0..bars.series.len()).map(|s| cell(finite(g.values.get(s)), bars.unit));
        let mark = |m: usize| g.marks.get(m).copied().flatten().filter(|v| v.is_finite()).map(Value::from);
        let marks = (0..bars.marks.len()).map(|m| cell(mark(m), bars.unit));
        std::iter::once(name.into()).chain(values).chain(marks).collect()
    };
    Table {
        caption: bars.title.clone(),
        head: std::iter::once(String::new()).chain(bars.series.iter().chain(&bars.marks).cloned()).collect(),
        rows: bars.groups.iter().map(row).collect(),
        note: None,
    }
}

fn of_lines(l: &Lines) -> Table {
    let mut xs: Vec<f64> =
        l.series.iter().flat_map(|s| s.points.iter().map(|p| p.x)).filter(|x| x.is_finite()).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let all = xs.len();
    if all > ROWS {
        xs = (0..ROWS).map(|i| xs[i * (all - 1) / (ROWS - 1)]).collect();
    }
    let row = |&x: &f64| {
        let value = |s: &super::Series| {
            let at = s.points.partition_point(|p| p.x < x);
            // Points that are not in order are still found.
            let point = s.points.get(at).filter(|p| p.x == x).or_else(|| s.points.iter().find(|p| p.x == x));
            point.filter(|p| p.y.is_finite()).map(|p| Value { value: p.y, error: p.error })
        };
        let first = Cell { number: true, ..Cell::from(lines::at(&l.x, x)) };
        std::iter::once(first).chain(l.series.iter().map(|s| cell(value(s), l.y.unit))).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<Cell>> = xs.iter().map(row).collect();
    if matches!(l.x.scale, super::Scale::Names(_)) {
        rows.iter_mut().for_each(|r| r[0].number = false);
    }
    let mut notes: Vec<String> =
        l.levels.iter().map(|v| format!("{}: {}.", v.name, l.y.unit.show(v.value))).collect();
    if all > ROWS {
        let ends = l.series.iter().filter_map(|s| {
            let (low, high) = scale::extent(s.points.iter().map(|p| p.y))?;
            Some(format!("{}: from {} to {}.", s.name, l.y.unit.show(low), l.y.unit.show(high)))
        });
        notes.push(format!("{ROWS} of {all} points."));
        notes.extend(ends);
    }
    Table {
        caption: l.title.clone(),
        head: std::iter::once(l.x.title.clone()).chain(l.series.iter().map(|s| s.name.clone())).collect(),
        rows,
        note: (!notes.is_empty()).then(|| notes.join(" ")),
    }
}
