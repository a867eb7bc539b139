//! A chart of curves.

use super::draw::{Anchor, Drawing, LINE, SIZE, Svg, WIDTH, text_width, wrap};
use super::scale::{self, Span};
use super::{Axis, Lines, Point, Scale, Series};

/// Of the place for curves.
const HEIGHT: f64 = 216.0;
/// Points are marked and named while they are so few.
const FEW: usize = 32;

pub(super) fn draw(lines: &Lines, id: &str) -> Drawing {
    let mut svg = Svg::default();
    let mut y = svg.legend(0.0, 26.0, lines.series.iter().map(|s| s.name.as_str()), |svg, i, (x, y)| {
        let look = Look::of(lines, i);
        svg.line(&look.line, (x, y), (x + 26.0, y));
        if lines.series[i].points.len() <= FEW {
            svg.marker(&look.marker, look.shape, (x + 13.0, y));
        }
    });
    if !lines.levels.is_empty() {
        y = svg.legend(y + 3.0, 26.0, lines.levels.iter().map(|l| l.name.as_str()), |svg, i, (x, y)| {
            svg.line(&level(i), (x, y), (x + 26.0, y));
        });
    }
    if nothing(lines) {
        svg.text("u", (0.0, y + LINE + 8.0), Anchor::Start, "Nothing was measured.");
        return Drawing { height: y + LINE + 16.0, body: svg.body };
    }
    if !lines.y.title.is_empty() {
        y += 8.0;
        for line in wrap(&lines.y.title, WIDTH, 2) {
            y += LINE;
            svg.text("u", (0.0, y), Anchor::Start, &line);
        }
    }
    let (top, bottom) = (y + 16.0, y + 16.0 + HEIGHT);
    let span = upward(lines).drawn(bottom, top);
    let (ticks, step) = span.ticks(5);
    let labels: Vec<String> = ticks.iter().map(|t| lines.y.unit.tick(*t, step)).collect();
    let mut left = labels.iter().map(|t| text_width(t)).fold(0.0, f64::max) + 8.0;
    if matches!(&lines.x.scale, Scale::Names(n) if !fit(n, WIDTH - left)) {
        // Slanted names begin to the left of their places.
        left = left.max(110.0);
    }
    for (t, label) in ticks.iter().zip(&labels) {
        svg.line("g", (left, span.at(*t)), (WIDTH, span.at(*t)));
        svg.text("u", (left - 8.0, span.at(*t) + 4.5), Anchor::End, label);
    }
    let along = along(lines).drawn(left + 4.0, WIDTH - 8.0);
    svg.line("z", (left, bottom), (WIDTH, bottom));
    let mut end = below(&mut svg, &lines.x, &along, left, bottom);
    for line in wrap(&lines.x.title, WIDTH - left, 2) {
        end += LINE;
        svg.text("u", ((left + WIDTH) / 2.0, end), Anchor::Middle, &line);
    }

    for (i, l) in lines.levels.iter().enumerate().filter(|(_, l)| span.holds(l.value)) {
        let name = format!("{}: {}", l.name, lines.y.unit.show(l.value));
        svg.named(&name, |svg| svg.line(&level(i), (left, span.at(l.value)), (WIDTH, span.at(l.value))));
    }
    let cut = lines.y.range.is_some();
    if cut {
        svg.clip(id, (left - 6.0, top - 6.0), (WIDTH - left + 6.0, HEIGHT + 12.0));
    }
    // Others' results lie behind one's own.
    let order = (0..lines.series.len()).filter(|&i| lines.series[i].reference);
    for i in order.chain((0..lines.series.len()).filter(|&i| !lines.series[i].reference)) {
        curve(&mut svg, lines, i, &along, &span);
    }
    svg.body.push_str(if cut { "</g>" } else { "" });
    Drawing { height: end + 6.0, body: svg.body }
}

fn curve(svg: &mut Svg, lines: &Lines, i: usize, along: &Span, span: &Span) {
    let (series, look) = (&lines.series[i], Look::of(lines, i));
    let places: Vec<(f64, f64)> = series
        .points
        .iter()
        .map(|p| {
            let inside = along.holds(p.x) && p.y.is_finite() && (!span.log || p.y > 0.0);
            if inside { (along.at(p.x), span.beyond(p.y)) } else { (f64::NAN, f64::NAN) }
        })
        .collect();
    let kept = scale::thin(&places, (along.to - along.from) as usize);
    let few = series.points.len() <= FEW;
    let ends =
        |p: Point| p.error.filter(|e| e.is_finite()).map(|e| (span.beyond(p.y - e), span.beyond(p.y + e)));
    // What was not measured parts the curve.
    let runs = || kept.chunk_by(|&a, &b| places[a + 1..b].iter().all(|p| p.1.is_finite()));
    if series.band {
        for run in runs() {
            let (low, high): (Vec<_>, Vec<_>) = run
                .iter()
                .filter_map(|&k| ends(series.points[k]).map(|(a, b)| ((places[k].0, a), (places[k].0, b))))
                .unzip();
            let around: Vec<_> = high.into_iter().chain(low.into_iter().rev()).collect();
            svg.path(&look.band, &around, true);
        }
    }
    for run in runs().filter(|r| r.len() > 1) {
        let thin = if few { "" } else { " n" };
        svg.path(&format!("{}{thin}", look.line), &run.iter().map(|&k| places[k]).collect::<Vec<_>>(), false);
    }
    for &k in kept.iter().filter(|_| few && !series.band) {
        if let Some((low, high)) = ends(series.points[k]) {
            let x = places[k].0;
            let class = &look.error;
            svg.line(class, (x, low), (x, high));
            svg.line(class, (x - 3.5, low), (x + 3.5, low));
            svg.line(class, (x - 3.5, high), (x + 3.5, high));
        }
    }
    for &k in kept.iter().filter(|k| few && span.holds(series.points[**k].y)) {
        let p = series.points[k];
        let value = lines.y.unit.show_with_error(super::Value { value: p.y, error: p.error });
        let name = format!("{}, {}: {value}", series.name, at(&lines.x, p.x));
        svg.named(&name, |svg| svg.marker(&look.marker, look.shape, places[k]));
    }
}

/// Ticks and names below the axis; returns where they end.
fn below(svg: &mut Svg, axis: &Axis, along: &Span, left: f64, bottom: f64) -> f64 {
    let Scale::Names(names) = &axis.scale else {
        let (ticks, step) = along.ticks(((WIDTH - left) / 56.0) as usize);
        let mut free = left - 30.0;
        for t in ticks {
            let (x, text) = (along.at(t), axis.unit.tick(t, step));
            let half = text_width(&text) / 2.0;
            svg.line("z", (x, bottom), (x, bottom + 4.0));
            // The last one does not leave the drawing.
            let middle = x.min(WIDTH - half);
            if middle - half > free {
                svg.text("u", (middle, bottom + LINE + 3.0), Anchor::Middle, &text);
                free = middle + half + 6.0;
            }
        }
        return bottom + LINE + 4.0;
    };
    let room = (along.to - along.from) / names.len().max(1) as f64;
    if fit(names, along.to - along.from) {
        let wrapped: Vec<Vec<String>> = names.iter().map(|n| wrap(n, room - 6.0, 3)).collect();
        for (i, lines) in wrapped.iter().enumerate() {
            for (l, text) in lines.iter().enumerate() {
                let at = (along.at(i as f64), bottom + 3.0 + (l + 1) as f64 * LINE);
                svg.text("u", at, Anchor::Middle, text);
            }
        }
        return bottom + 4.0 + wrapped.iter().map(Vec::len).max().unwrap_or(1) as f64 * LINE;
    }
    let every = (names.len() as f64 * (LINE + 2.0) / (along.to - along.from)).ceil().max(1.0) as usize;
    let mut deep: f64 = 0.0;
    for (i, name) in names.iter().enumerate().step_by(every) {
        let x = along.at(i as f64) + 4.0;
        // As long as the way to the left edge allows.
        let text = wrap(name, 180f64.min((x - 10.0) / 0.77), 1).pop().unwrap_or_default();
        deep = deep.max(text_width(&text) * 0.65);
        svg.slanted("u", (x, bottom + SIZE), &text);
    }
    bottom + deep + SIZE + 4.0
}

/// Names stand side by side in `width`, a word a line if need be.
fn fit(names: &[String], width: f64) -> bool {
    let room = width / names.len().max(1) as f64;
    names.iter().flat_map(|n| n.split_whitespace()).all(|w| text_width(w) <= room - 6.0)
}

/// There is no point to show.
pub(super) fn nothing(lines: &Lines) -> bool {
    !lines.series.iter().flat_map(|s| &s.points).any(|p| p.x.is_finite() && p.y.is_finite())
}

/// How a value of an axis is written in a sentence or a table.
pub(super) fn at(axis: &Axis, x: f64) -> String {
    match &axis.scale {
        Scale::Names(names) if x >= 0.0 => {
            names.get(x.round() as usize).cloned().unwrap_or_else(|| axis.unit.show(x))
        }
        _ if axis.unit == super::Unit::Plain && x.fract() == 0.0 && x.abs() < 1e6 => {
            format!("{x:.0}").replace('-', "−")
        }
        _ => axis.unit.show(x),
    }
}

/// The span of `x`, not yet drawn.
pub(super) fn along(lines: &Lines) -> Span {
    let xs = || lines.series.iter().flat_map(|s| s.points.iter().filter(|p| p.y.is_finite()).map(|p| p.x));
    match &lines.x.scale {
        Scale::Log => Span::log(lines.x.range, xs()),
        Scale::Names(names) => Span::linear(Some((-0.5, names.len().max(1) as f64 - 0.5)), xs(), 1),
        Scale::Linear => {
            // Curves reach both sides: along the axis, whole ticks are no aim.
            let fixed = lines.x.range.or_else(|| scale::extent(xs()).filter(|(a, b)| a < b));
            let few = lines.series.iter().all(|s| s.points.len() <= FEW);
            let room = |(a, b): (f64, f64)| if few { ((b - a) * 0.03, a, b) } else { (0.0, a, b) };
            Span::linear(fixed.map(room).map(|(r, a, b)| (a - r, b + r)), xs(), 6)
        }
    }
}

/// The span of `y`, not yet drawn.
pub(super) fn upward(lines: &Lines) -> Span {
    let ends = |s: &Series| {
        let of = |p: &Point| {
            let e = p.error.filter(|e| e.is_finite()).unwrap_or(0.0);
            [p.y, p.y - e, p.y + e]
        };
        s.points.iter().flat_map(of).collect::<Vec<_>>()
    };
    let values = lines.series.iter().flat_map(ends).chain(lines.levels.iter().map(|l| l.value));
    match lines.y.scale {
        Scale::Log => Span::log(lines.y.range, values),
        _ => Span::linear(lines.y.range, values, 5),
    }
}

fn level(i: usize) -> String {
    format!("y d{}", (i + 1) % 3)
}

/// The classes of a series: colours and markers count one's own series, dashes the others'.
struct Look {
    line: String,
    marker: String,
    error: String,
    band: String,
    shape: usize,
}

impl Look {
    fn of(lines: &Lines, i: usize) -> Self {
        let reference = lines.series[i].reference;
        let k = lines.series[..i].iter().filter(|s| s.reference == reference).count();
        if reference {
            let line = format!("l r d{}", k % 3);
            // Their markers go on where one's own end.
            let own = lines.series.iter().filter(|s| !s.reference).count();
            return Self { line, marker: "q".into(), error: "z".into(), band: "a".into(), shape: own + k };
        }
        let c = k % 4;
        let again = if k >= 4 { format!(" d{}", (k / 4 - 1) % 3) } else { String::new() };
        Self {
            line: format!("l l{c}{again}"),
            marker: format!("o f{c}"),
            error: format!("l n l{c}"),
            band: format!("a f{c}"),
            shape: k,
        }
    }
}
