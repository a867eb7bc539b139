//! What holds for every report: it is shown, whatever is in it, and always in the same way.

use super::*;
use console::{measure_text_width, strip_ansi_codes};
use resvg::{tiny_skia, usvg::roxmltree};

/// A report whose texts try to break out and whose numbers are no measurements.
fn hostile() -> Report {
    let evil =
        "</title></svg><script>alert('1')</script> & \"x\" \u{1b}[31m\u{0}\u{202e}\u{fffe} 常識".to_owned();
    let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, -1e308, 0.0, -0.0, 5e-324, 0.5];
    let values = |n: usize| {
        (0..n).map(|i| Some(Value { value: numbers[i % 9], error: Some(numbers[(i + 3) % 9]) })).collect()
    };
    let group = |i: usize| Group {
        label: evil.repeat(i % 4),
        note: Some(evil.clone()),
        values: values(i % 6),
        marks: numbers[..i % 5].iter().map(|v| Some(*v)).collect(),
    };
    let series = |n: usize| Series {
        name: evil.clone(),
        points: (0..n)
            .map(|i| Point { x: numbers[(i * 2) % 9], y: numbers[i % 9], error: Some(numbers[(i + 1) % 9]) })
            .collect(),
        reference: n % 2 == 1,
        band: n.is_multiple_of(3),
    };
    let scales = [Scale::Linear, Scale::Log, Scale::Names(vec![evil.clone(); 9]), Scale::Names(Vec::new())];
    let ranges = [None, Some((0.0, 1.0)), Some((1.0, 1.0)), Some((f64::NAN, 1.0)), Some((3.0, -2.0))];
    let mut figures = Vec::new();
    for (unit, groups) in [(Unit::Percent, 0), (Unit::Plain, 1), (Unit::Count, 31), (Unit::Fixed(200), 4)] {
        for range in ranges {
            let names = vec![evil.clone(); groups % 7];
            let groups = (0..groups).map(group).collect();
            let (title, text, axis) = (evil.clone(), evil.clone(), evil.clone());
            figures.push(Figure::Bars(Bars {
                title,
                text,
                axis,
                unit,
                range,
                series: names.clone(),
                marks: names,
                groups,
            }));
            for scale in &scales {
                let axis = Axis { title: evil.clone(), unit, scale: scale.clone(), range };
                figures.push(Figure::Lines(Lines {
                    title: evil.clone(),
                    text: evil.clone(),
                    x: axis.clone(),
                    y: axis,
                    series: [0, 1, 9, 60, 10, 11].map(series).into(),
                    levels: numbers.map(|value| Level { name: evil.clone(), value }).into(),
                }));
            }
        }
    }
    let cell = |i: usize| Cell {
        text: evil.repeat(i),
        number: i % 2 == 1,
        tone: [Tone::Good, Tone::Bad, Tone::Muted][i % 3],
    };
    let table = |n: usize| Table {
        caption: evil.clone(),
        head: vec![evil.clone(); n / 2],
        rows: (0..n).map(|i| (0..i).map(cell).collect()).collect(),
        note: Some(evil.clone()),
    };
    Report {
        title: evil.clone(),
        lead: vec![evil.clone(), "a `b` c `".into()],
        facts: vec![(evil.clone(), evil.clone())],
        sections: vec![Section {
            title: evil.clone(),
            text: vec![evil.clone()],
            figures,
            tables: [0, 1, 5, 12].map(table).into(),
            details: Some(Details { summary: evil.clone(), text: evil.clone() }),
        }],
        replay: vec![evil],
    }
}

#[test]
fn the_page_is_whole_and_nothing_breaks_out_of_it() {
    for report in [sample::report(), hostile(), Report::default()] {
        let page = report.html();
        assert!(!page.contains("<script") && !page.contains('\u{1b}') && !page.contains("NaN"));
        for (at, _) in page.match_indices("<svg ") {
            let svg = &page[at..at + page[at..].find("</svg>").unwrap() + 6];
            let svg = roxmltree::Document::parse(svg).unwrap_or_else(|e| panic!("{e}: {svg}"));
            assert!(svg.root_element().attribute("role") == Some("img"));
        }
        // Ids are those of one page.
        let mut ids: Vec<&str> = page.split(" id=\"").skip(1).map(|p| p.split('"').next().unwrap()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}

#[test]
fn the_page_shows_every_number_and_stays_small() {
    let page = sample::report().html();
    for text in [
        "56.1% ± 1.0",
        "<html lang=\"en\">",
        "name=\"viewport\"",
        "Reading comprehension with commonsense",
        "60 of 3000 points",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(page.len() < 120_000, "{}", page.len());
}

#[test]
fn the_same_report_is_the_same_bytes_also_out_of_json() {
    let report = sample::report();
    let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(read, report);
    assert_eq!(read.html(), report.html());
    assert_eq!(read.png().unwrap(), report.png().unwrap());
    // What was not measured is null, and is read as such.
    let gap = r#"{"x":1.0,"y":null,"error":null}"#;
    let point: Point = serde_json::from_str(gap).unwrap();
    assert!(point.y.is_nan());
    assert_eq!(serde_json::to_string(&point).unwrap(), gap);
}

#[test]
fn the_picture_has_a_sane_size_and_something_on_it() {
    let shown = |report: &Report| {
        let pixels = tiny_skia::Pixmap::decode_png(&report.png().unwrap()).unwrap();
        let first = pixels.pixels()[0];
        (pixels.width(), pixels.height(), pixels.pixels().iter().filter(|p| **p != first).count())
    };
    let (width, height, drawn) = shown(&sample::report());
    assert!((1500..3000).contains(&width) && (1000..4000).contains(&height), "{width} × {height}");
    assert!(drawn > 100_000, "{drawn}");
    let (width, height, _) = shown(&hostile());
    assert!(width <= 12_000 && height <= 12_000, "{width} × {height}");
    shown(&Report::default());
    let words = Report { title: "Words".into(), ..Report::default() };
    assert!(shown(&words).2 > 500, "the font is there");
}

#[test]
fn a_terminal_is_never_too_narrow_and_without_colours_has_no_codes() {
    for report in [sample::report(), hostile(), Report::default()] {
        let report = Report { replay: Vec::new(), ..report };
        for width in [30, 60, 61, 80, 100, 127, 160] {
            let plain = report.text(Screen { width, colour: false });
            assert!(!plain.contains('\u{1b}') && !plain.contains('\u{202e}'));
            for line in plain.lines() {
                assert!(measure_text_width(line) <= width, "{width}: {line}");
            }
            let colour = report.text(Screen { width, colour: true });
            let lines = |t: &str| t.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
            assert_eq!(lines(&strip_ansi_codes(&colour)), lines(&plain));
        }
        report.text(Screen { width: 0, colour: true });
    }
}

#[test]
fn a_sparkline_spans_its_values() {
    assert_eq!(sparkline(&[0.0, 1.0, f64::NAN, 0.5, 1.0]), "▁█ ▅█");
    assert_eq!(sparkline(&[3.0, 3.0]), "▄▄");
    assert_eq!(sparkline(&[]), "");
}
