//! Colours, after Okabe and Ito's set for all kinds of colour vision, and the style of what is drawn with them. No colour stands
//! alone: bars differ in filling, curves in marker and dash, levels in dash.

/// Name, in the light, in the dark. Text has a contrast of 4.5 to 1 on the paper at least, lines and outlines 3 to 1.
pub(super) const COLOURS: [(&str, &str, &str); 14] = [
    ("paper", "#fffffb", "#15181c"),
    ("shade", "#f5f5ef", "#1e2328"),
    ("ink", "#1c1e21", "#e4e4df"),
    ("soft", "#5a5f66", "#a3a9b1"),
    ("rule", "#dededa", "#343a41"),
    ("link", "#00578a", "#7cc0ee"),
    ("tint", "#d3e3ee", "#2b4558"),
    ("edge", "#5b7f99", "#7fa6c2"),
    ("c0", "#0072b2", "#56b4e9"),
    ("c1", "#c25400", "#f0a030"),
    ("c2", "#00815f", "#35c69b"),
    ("c3", "#a8507f", "#e0a0c4"),
    ("good", "#00694c", "#45c9a0"),
    ("bad", "#a64400", "#f2a65e"),
];

/// How a drawing looks; `var(--name)` is a colour.
pub(super) const DRAWING: &str = "\
.t,.u,.h,.v{font-size:13px;fill:var(--ink)}\
.u{fill:var(--soft)}.h{font-weight:bold}\
.g{stroke:var(--rule);stroke-width:1;fill:none}\
.z{stroke:var(--soft);stroke-width:1;fill:none}\
.e{stroke:var(--ink);stroke-width:1.3;fill:none}\
.halo{stroke:var(--paper);stroke-width:3.6;fill:none}\
.m{stroke:var(--ink);stroke-width:1.8;fill:none}.md{fill:var(--paper);stroke:var(--ink);stroke-width:1.4}\
.m1{stroke-dasharray:2 2}\
.b0{fill:var(--tint);stroke:var(--edge)}.b1{fill:var(--c0);stroke:var(--c0)}.b2{stroke:var(--c1)}.b3{stroke:var(--c2)}\
.p2{stroke:var(--c1);stroke-width:2.2;fill:none}.p3{fill:var(--c2)}.pp{fill:var(--paper)}\
.l{fill:none;stroke-width:2;stroke-linejoin:round}.n{stroke-width:1.1}\
.l0{stroke:var(--c0)}.l1{stroke:var(--c1)}.l2{stroke:var(--c2)}.l3{stroke:var(--c3)}.r{stroke:var(--soft)}\
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}\
.o{stroke:var(--paper);stroke-width:1}.q{fill:var(--paper);stroke:var(--soft);stroke-width:1.5}\
.a{fill-opacity:.18}\
.d0{stroke-dasharray:7 4}.d1{stroke-dasharray:2 3}.d2{stroke-dasharray:9 3 2 3}\
.y{stroke:var(--soft);stroke-width:1.6;fill:none}";

/// The declarations of all colours.
pub(super) fn variables(dark: bool) -> String {
    COLOURS.iter().map(|(name, l, d)| format!("--{name}:{};", if dark { d } else { l })).collect()
}

/// `css` with the light colours in the place of their names, for what knows no variables.
pub(super) fn resolved(css: &str) -> String {
    COLOURS.iter().fold(css.to_owned(), |css, (name, light, _)| css.replace(&format!("var(--{name})"), light))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luminance(hex: &str) -> f64 {
        let part = |i: usize| {
            let v = f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap()) / 255.0;
            if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_and_lines_stand_out_in_both_themes() {
        for dark in [false, true] {
            let colour = |name: &str| {
                let c = COLOURS.iter().find(|c| c.0 == name).unwrap();
                if dark { c.2 } else { c.1 }
            };
            for paper in ["paper", "shade"] {
                for text in ["ink", "soft", "link", "good", "bad"] {
                    let c = contrast(colour(text), colour(paper));
                    assert!(c >= 4.5, "{text} on {paper}, dark {dark}: {c:.2}");
                }
            }
            for line in ["edge", "c0", "c1", "c2", "c3"] {
                let c = contrast(colour(line), colour("paper"));
                assert!(c >= 3.0, "{line}, dark {dark}: {c:.2}");
            }
            let c = contrast(colour("c0"), colour("tint"));
            assert!(c >= 2.5, "two bars side by side, dark {dark}: {c:.2}");
        }
    }

    #[test]
    fn every_colour_of_a_drawing_is_known() {
        assert!(!resolved(DRAWING).contains("var("));
    }
}
