//! A report's charts on one picture, in the font that flanrt carries.

use super::draw::{Anchor, LINE, Svg, WIDTH, place, style, wrap};
use super::{Report, palette};
use crate::error::{Error, Result};
use resvg::{tiny_skia, usvg};
use std::sync::Arc;

/// Around the whole and between charts.
const MARGIN: f64 = 36.0;
const GUTTER: f64 = 44.0;
/// Pixels a unit, and at most for a side.
const SHARP: f64 = 2.0;
const SIDE: f64 = 12_000.0;
/// Of the title, larger than other text by so much.
const TITLE: f64 = 1.6;

impl Report {
    /// Title, verdict and all charts as a picture (PNG): light, the same bytes on every machine.
    pub fn png(&self) -> Result<Vec<u8>> {
        let (svg, width, height) = self.panel();
        let broken = |e: &dyn std::fmt::Display| {
            Error::internal(format!("the picture of a report was not drawn: {e}"))
        };
        let mut fonts = usvg::fontdb::Database::new();
        fonts.load_font_data(notosans::REGULAR_TTF.to_vec());
        fonts.load_font_data(notosans::BOLD_TTF.to_vec());
        let options =
            usvg::Options { fontdb: Arc::new(fonts), font_family: "Noto Sans".into(), ..Default::default() };
        let tree = usvg::Tree::from_str(&svg, &options).map_err(|e| broken(&e))?;
        let scale = SHARP.min(SIDE / height).min(SIDE / width);
        let size = |units: f64| (units * scale).ceil().max(1.0) as u32;
        let mut pixels =
            tiny_skia::Pixmap::new(size(width), size(height)).ok_or_else(|| broken(&"no such size"))?;
        let scale = tiny_skia::Transform::from_scale(scale as f32, scale as f32);
        resvg::render(&tree, scale, &mut pixels.as_mut());
        pixels.encode_png().map_err(|e| broken(&e))
    }

    /// The picture as SVG, with its width and height.
    fn panel(&self) -> (String, f64, f64) {
        let drawings: Vec<_> =
            self.figures().enumerate().map(|(i, f)| (f, f.draw(&format!("f{i}")))).collect();
        let columns = drawings.len().clamp(1, 2);
        let width = columns as f64 * (WIDTH + GUTTER) - GUTTER + 2.0 * MARGIN;
        let inner = width - 2.0 * MARGIN;
        let mut svg = Svg::default();
        let mut y = MARGIN;
        for line in wrap(&self.title, inner / TITLE, 3) {
            y += LINE * TITLE;
            svg.text("h big", (MARGIN, y), Anchor::Start, &line);
        }
        y += LINE * 0.4;
        for line in self.lead.first().map_or(Vec::new(), |l| wrap(&l.replace('`', ""), inner, 4)) {
            y += LINE * 1.15;
            svg.text("t", (MARGIN, y), Anchor::Start, &line);
        }
        let mut ends = vec![y + MARGIN * 0.75; columns];
        for (figure, drawing) in &drawings {
            let c = (0..columns).reduce(|a, b| if ends[b] < ends[a] { b } else { a }).unwrap_or(0);
            let x = MARGIN + c as f64 * (WIDTH + GUTTER);
            for line in wrap(&figure.title().replace('`', ""), WIDTH * 0.95, 3) {
                ends[c] += LINE * 1.1;
                svg.text("h", (x, ends[c]), Anchor::Start, &line);
            }
            ends[c] += 10.0;
            svg.body +=
                &format!(r#"<g transform="translate({} {})">{}</g>"#, place(x), place(ends[c]), drawing.body);
            ends[c] += drawing.height + MARGIN;
        }
        let height =
            ends.into_iter().fold(y, f64::max).ceil() + if drawings.is_empty() { MARGIN } else { 4.0 };
        let paper = palette::COLOURS[0].1;
        let style = format!("{}.big{{font-size:{}px}}", style(), place(13.0 * TITLE));
        let all = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"><style>{style}</style><rect width="{width}" height="{height}" fill="{paper}"/>{}</svg>"#,
            svg.body
        );
        (all, width, height)
    }
}
