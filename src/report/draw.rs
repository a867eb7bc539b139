//! SVG: shapes, text that fits, legends. Sizes are such that text of 13 units is read on a phone, where [`WIDTH`] is some 330 pixels.

use super::palette;
use std::fmt::Write;

/// How wide a drawing is.
pub(super) const WIDTH: f64 = 460.0;
/// From line to line of text.
pub(super) const LINE: f64 = 16.0;
/// Of text.
pub(super) const SIZE: f64 = 13.0;

/// A finished drawing, [`WIDTH`] wide.
pub(super) struct Drawing {
    pub(super) height: f64,
    /// Without an `svg` around it.
    pub(super) body: String,
}

/// Where a text begins, is centred or ends.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing under way. Classes are those of [`palette::DRAWING`].
#[derive(Default)]
pub(super) struct Svg {
    pub(super) body: String,
}

impl Svg {
    pub(super) fn line(&mut self, class: &str, a: (f64, f64), b: (f64, f64)) {
        let [x1, y1, x2, y2] = [a.0, a.1, b.0, b.1].map(place);
        let _ = write!(self.body, r#"<path class="{class}" d="M{x1} {y1}L{x2} {y2}"/>"#);
    }

    /// Through all points.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)], closed: bool) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, place(*x), place(*y));
        }
        let end = if closed { "Z" } else { "" };
        let _ = write!(self.body, r#"<path class="{class}" d="{d}{end}"/>"#);
    }

    /// `extra`: attributes.
    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (w, h): (f64, f64), extra: &str) {
        let [x, y, w, h] = [x, y, w, h].map(place);
        let _ =
            write!(self.body, r#"<rect class="{class}" x="{x}" y="{y}" width="{w}" height="{h}"{extra}/>"#);
    }

    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let [x, y] = [x, y].map(place);
        let _ = write!(self.body, r#"<text class="{class}" x="{x}" y="{y}"{anchor}>{}</text>"#, escape(text));
    }

    /// A text that ends at a point and rises towards it.
    pub(super) fn slanted(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let [x, y] = [x, y].map(place);
        let (turn, text) = (format!(r#"transform="rotate(-40 {x} {y})""#), escape(text));
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x}" y="{y}" text-anchor="end" {turn}>{text}</text>"#
        );
    }

    /// What is drawn next, up to a `</g>`, ends at the sides of a rectangle.
    pub(super) fn clip(&mut self, id: &str, (x, y): (f64, f64), (w, h): (f64, f64)) {
        let [x, y, w, h] = [x, y, w, h].map(place);
        let rect = format!(r#"<rect x="{x}" y="{y}" width="{w}" height="{h}"/>"#);
        let _ = write!(self.body, r#"<clipPath id="{id}c">{rect}</clipPath><g clip-path="url(#{id}c)">"#);
    }

    /// What is drawn inside, named when the pointer rests on it.
    pub(super) fn named(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        let _ = write!(self.body, "<g><title>{}</title>", escape(name));
        inside(self);
        self.body.push_str("</g>");
    }

    /// The marker of the `i`th series around a point.
    pub(super) fn marker(&mut self, class: &str, i: usize, (x, y): (f64, f64)) {
        match i % 4 {
            0 => {
                let [x, y] = [x, y].map(place);
                let _ = write!(self.body, r#"<circle class="{class}" cx="{x}" cy="{y}" r="4.2"/>"#);
            }
            1 => self.rect(class, (x - 3.9, y - 3.9), (7.8, 7.8), ""),
            2 => self.path(class, &[(x, y - 5.2), (x + 5.0, y + 3.8), (x - 5.0, y + 3.8)], true),
            _ => self.path(class, &[(x, y - 5.6), (x + 5.2, y), (x, y + 5.6), (x - 5.2, y)], true),
        }
    }

    /// A bar of the `style`th filling.
    pub(super) fn bar(&mut self, id: &str, style: usize, at: (f64, f64), size: (f64, f64)) {
        let fill = if style < 2 { String::new() } else { format!(r##" fill="url(#{id}p{style})""##) };
        self.rect(&format!("b{style}"), at, size, &fill);
    }

    /// The fillings that bars refer to.
    pub(super) fn fillings(&mut self, id: &str) {
        let _ = write!(
            self.body,
            r#"<defs><pattern id="{id}p2" width="6" height="6" patternUnits="userSpaceOnUse"><path class="pp" d="M0 0H6V6H0Z"/><path class="p2" d="M-2 2L2 -2M-1 7L7 -1M4 8L8 4"/></pattern><pattern id="{id}p3" width="5" height="5" patternUnits="userSpaceOnUse"><path class="pp" d="M0 0H5V5H0Z"/><circle class="p3" cx="2.5" cy="2.5" r="1.6"/></pattern></defs>"#
        );
    }

    /// Names in rows from `y` down, each behind a sign of `sign` units that is drawn around its left middle; returns where they end.
    pub(super) fn legend<'a>(
        &mut self,
        mut y: f64,
        sign: f64,
        names: impl Iterator<Item = &'a str>,
        mut draw: impl FnMut(&mut Self, usize, (f64, f64)),
    ) -> f64 {
        let mut x = 0.0;
        for (i, name) in names.enumerate() {
            let name = wrap(name, WIDTH - sign - 6.0, 1).pop().unwrap_or_default();
            let width = sign + 6.0 + text_width(&name);
            if x > 0.0 && x + width > WIDTH {
                (x, y) = (0.0, y + LINE + 3.0);
            }
            if x == 0.0 {
                y += if i == 0 { LINE } else { 0.0 };
            }
            draw(self, i, (x, y - 4.5));
            self.text("t", (x + sign + 6.0, y), Anchor::Start, &name);
            x += width + 18.0;
        }
        y
    }
}

/// A coordinate with one decimal.
pub(super) fn place(value: f64) -> f64 {
    // The sum takes the sign from a zero.
    if value.is_finite() { (value * 10.0).round() / 10.0 + 0.0 } else { 0.0 }
}

/// `text` inside markup, in an attribute too; characters that XML does not know are left out.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            _ => out.push(c),
        }
    }
    out
}

/// How wide a text of [`SIZE`] is at most in the usual fonts without serifs: the reader's font is not known.
pub(super) fn text_width(text: &str) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.32,
        'f' | 'r' | 't' | '(' | ')' | '[' | ']' | '/' | '-' | '–' | '"' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '—' => 0.96,
        'A'..='Z' => 0.72,
        '0'..='9' => 0.645,
        '\0'..='\u{2fff}' => 0.62,
        _ => 1.05,
    };
    text.chars().map(em).sum::<f64>() * SIZE
}

/// `text` in lines of at most `width` units; a word that is longer is cut, and what is left behind the last line is dotted.
pub(super) fn wrap(text: &str, width: f64, lines: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if text_width(&longer) <= width {
            line = longer;
            continue;
        }
        if !line.is_empty() {
            out.push(std::mem::take(&mut line));
        }
        for c in word.chars() {
            line.push(c);
            if text_width(&line) > width && line.chars().count() > 1 {
                line.pop();
                out.push(std::mem::replace(&mut line, c.to_string()));
            }
        }
    }
    if !line.is_empty() {
        out.push(line);
    }
    if out.len() > lines {
        out.truncate(lines.max(1));
        if let Some(last) = out.last_mut() {
            while text_width(last) + text_width("…") > width && last.pop().is_some() {}
            *last = format!("{}…", last.trim_end());
        }
    }
    out
}

/// The style of a picture by itself: light, in the font that flanrt carries.
pub(super) fn style() -> String {
    format!("text{{font-family:'Noto Sans'}}{}", palette::resolved(palette::DRAWING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(
            escape("<b a='1' c=\"2\">&\u{1b}\0x</b>\n"),
            "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;x&lt;/b&gt;\n"
        );
    }

    #[test]
    fn wrapped_lines_fit() {
        let text = "Reading comprehension with commonsense Donaudampfschifffahrtsgesellschaftskapitän 常識を伴う読解";
        for (width, lines) in [(60.0, 9), (150.0, 3), (150.0, 20), (1.0, 4)] {
            let wrapped = wrap(text, width, lines);
            assert!(wrapped.len() <= lines, "{wrapped:?}");
            assert!(
                wrapped.iter().all(|l| text_width(l) <= width || l.chars().count() <= 2),
                "{width} {wrapped:?}"
            );
        }
        assert_eq!(wrap("Sentiment analysis", 300.0, 3), ["Sentiment analysis"]);
        assert!(wrap(" \n", 100.0, 3).is_empty());
    }
}
