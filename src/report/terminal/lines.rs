//! Curves of dots: a character holds two by four of them.

use super::super::lines::{along, at, nothing, upward};
use super::super::{Lines, Scale, scale};
use super::Screen;
use super::bars::under;
use console::measure_text_width;

const ROWS: usize = 13;
/// Points are marked while they are so few.
const FEW: usize = 40;
const MARKERS: [char; 4] = ['●', '■', '▲', '◆'];
/// Others' results.
const OTHERS: [char; 4] = ['○', '□', '△', '◇'];
const LEVELS: [char; 3] = ['╌', '┄', '┈'];

/// A character of the chart: dots, or a sign over them, in the look of a series.
#[derive(Clone, Copy, Default)]
struct Spot {
    dots: u8,
    sign: Option<char>,
    series: Option<usize>,
}

pub(super) fn draw(lines: &Lines, screen: Screen) -> String {
    let paint = |i: usize, text: &str| match lines.series[i].reference {
        true => screen.soft(text),
        false => screen.hue(lines.series[..i].iter().filter(|s| !s.reference).count(), text),
    };
    let sign = |i: usize| {
        let signs = if lines.series[i].reference { OTHERS } else { MARKERS };
        signs[lines.series[..i].iter().filter(|s| s.reference == lines.series[i].reference).count() % 4]
    };
    let few = |i: usize| lines.series[i].points.len() <= FEW;
    let mut items: Vec<(String, &str)> = (0..lines.series.len())
        .map(|i| {
            (paint(i, &if few(i) { sign(i).to_string() } else { "⠒⠒".into() }), lines.series[i].name.as_str())
        })
        .collect();
    items.extend(
        lines
            .levels
            .iter()
            .enumerate()
            .map(|(i, l)| (screen.soft(&LEVELS[i % 3].to_string().repeat(2)), l.name.as_str())),
    );
    let mut out = screen.legend(&items);

    if nothing(lines) {
        return out + &screen.soft("Nothing was measured.") + "\n";
    }
    let (ticks, step) = upward(lines).ticks(4);
    let labels: Vec<String> = ticks.iter().map(|t| lines.y.unit.tick(*t, step)).collect();
    let left = labels.iter().map(|l| measure_text_width(l)).max().unwrap_or(0).min(12);
    let columns = screen.columns() - left - 2;
    let span = upward(lines).drawn((ROWS * 4 - 1) as f64, 0.0);
    let along = along(lines).drawn(0.0, (columns * 2 - 1) as f64);
    let mut spots = vec![vec![Spot::default(); columns]; ROWS];

    for (i, l) in lines.levels.iter().enumerate().filter(|(_, l)| span.holds(l.value)) {
        spots[span.at(l.value) as usize / 4].iter_mut().for_each(|s| s.sign = Some(LEVELS[i % 3]));
    }
    let own = |i: &usize| !lines.series[*i].reference;
    let order = (0..lines.series.len()).filter(|i| !own(i)).chain((0..lines.series.len()).filter(own));
    for i in order.clone() {
        let places: Vec<(f64, f64)> = lines.series[i]
            .points
            .iter()
            .map(|p| {
                if along.holds(p.x) && span.holds(p.y) {
                    (along.at(p.x), span.at(p.y))
                } else {
                    (f64::NAN, f64::NAN)
                }
            })
            .collect();
        let kept = scale::thin(&places, columns * 2);
        for pair in kept.windows(2).filter(|w| places[w[0] + 1..w[1]].iter().all(|p| p.1.is_finite())) {
            segment(places[pair[0]], places[pair[1]], |x, y| {
                let spot = &mut spots[y / 4][x / 2];
                *spot = Spot { dots: spot.dots | dot(x % 2, y % 4), sign: None, series: Some(i) };
            });
        }
        for &k in kept.iter().filter(|_| few(i)) {
            let spot = &mut spots[places[k].1.round() as usize / 4][places[k].0.round() as usize / 2];
            (spot.sign, spot.series) = (Some(sign(i)), Some(i));
        }
    }

    out += &screen.soft(&super::fold(&lines.y.title, screen.columns(), 1).concat());
    out.push_str(if lines.y.title.is_empty() { "" } else { "\n" });
    for (row, spots) in spots.iter().enumerate() {
        let label = ticks.iter().position(|t| span.at(*t).round() as usize / 4 == row);
        let text = super::pad(label.map_or("", |l| &labels[l]), left, true);
        out += &screen.soft(&format!("{text} {}", if label.is_some() { '┤' } else { '│' }));
        let drawn: String = spots
            .chunk_by(|a, b| a.series == b.series)
            .map(|run| {
                let text: String = run.iter().map(glyph).collect();
                match run[0].series {
                    Some(i) => paint(i, &text),
                    None => screen.soft(&text),
                }
            })
            .collect();
        out += drawn.trim_end();
        out.push('\n');
    }
    out += &screen.soft(&format!("{}└{}\n", " ".repeat(left + 1), "─".repeat(columns)));
    let (ticks, step) = match &lines.x.scale {
        Scale::Names(names) => ((0..names.len()).map(|i| i as f64).collect(), 1.0),
        _ => along.ticks(columns / 9),
    };
    let label = |t: f64| match &lines.x.scale {
        Scale::Names(_) => {
            super::pad(&super::plain(&at(&lines.x, t)), (columns / ticks.len().max(1)).max(14), false)
                .trim_end()
                .to_owned()
        }
        _ => lines.x.unit.tick(t, step),
    };
    out += &screen.soft(&under(
        left + 2,
        screen.columns(),
        ticks.iter().map(|t| (along.at(*t) as usize / 2, label(*t))),
    ));
    let title = super::fold(&lines.x.title, columns, 1).concat();
    if title.is_empty() { out } else { out + &screen.soft(&format!("{}{title}\n", " ".repeat(left + 2))) }
}

fn glyph(spot: &Spot) -> char {
    match (spot.sign, spot.dots) {
        (Some(sign), _) => sign,
        (None, 0) => ' ',
        (None, dots) => char::from_u32(0x2800 + u32::from(dots)).unwrap_or('?'),
    }
}

/// The bit of a dot in the order of braille.
fn dot(x: usize, y: usize) -> u8 {
    [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]][x][y]
}

/// All dots from `a` to `b`.
fn segment(a: (f64, f64), b: (f64, f64), mut set: impl FnMut(usize, usize)) {
    let steps = (b.0 - a.0).abs().max((b.1 - a.1).abs()).ceil().max(1.0);
    for s in 0..=steps as usize {
        let t = s as f64 / steps;
        set((a.0 + (b.0 - a.0) * t).round() as usize, (a.1 + (b.1 - a.1) * t).round() as usize);
    }
}
