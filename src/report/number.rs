//! Numbers in words: the same digits on a page, in a picture and in a terminal.

use super::{Unit, Value};

/// What stands where nothing was measured.
pub(super) const GAP: &str = "–";

impl Unit {
    /// A value with the digits that this unit has.
    pub fn show(self, value: f64) -> String {
        if !value.is_finite() {
            return GAP.into();
        }
        let size = value.abs();
        match self {
            Self::Percent => format!("{}%", fixed(value * 100.0, 1)),
            Self::Count => count(value),
            Self::Fixed(digits) => fixed(value, digits.min(9).into()),
            Self::Plain if size != 0.0 && !(1e-4..1e7).contains(&size) => minus(format!("{value:.2e}")),
            Self::Plain => fixed(
                value,
                if size < 10.0 {
                    3
                } else if size < 100.0 {
                    2
                } else {
                    1
                },
            ),
        }
    }

    /// A value and its error: `45.2% ± 1.3`.
    pub(super) fn show_with_error(self, Value { value, error }: Value) -> String {
        match error.filter(|e| e.is_finite() && value.is_finite()) {
            Some(e) => format!("{} ± {}", self.show(value), self.show(e.abs()).trim_end_matches('%')),
            None => self.show(value),
        }
    }

    /// A value at an axis whose ticks are `step` apart: no more digits than tell them apart.
    pub(super) fn tick(self, value: f64, step: f64) -> String {
        let digits =
            |step: f64| if step > 0.0 { (-step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize } else { 0 };
        match self {
            _ if !value.is_finite() => GAP.into(),
            Self::Percent => format!("{}%", fixed(value * 100.0, digits(step * 100.0))),
            Self::Count => count(value),
            Self::Plain if value != 0.0 && !(1e-6..1e5).contains(&value.abs()) => {
                minus(format!("{value:.0e}"))
            }
            Self::Plain | Self::Fixed(_) => fixed(value, digits(step)),
        }
    }
}

/// A number with a true minus sign, and no minus before zero.
fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.bytes().all(|b| matches!(b, b'-' | b'0' | b'.')) { text.replace('-', "") } else { minus(text) }
}

fn minus(text: String) -> String {
    text.replace('-', "−")
}

/// Three figures and a prefix from ten thousand on.
fn count(value: f64) -> String {
    let size = value.abs();
    let (scale, suffix) = match size {
        1e15.. => return minus(format!("{value:.2e}")),
        9.995e11.. => (1e12, "T"),
        9.995e8.. => (1e9, "B"),
        9.995e5.. => (1e6, "M"),
        1e4.. => (1e3, "k"),
        _ => (1.0, ""),
    };
    let scaled = value / scale;
    let digits = match scaled.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = fixed(scaled, digits);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_write_their_numbers() {
        let shown = [
            (Unit::Percent, 0.4519, "45.2%"),
            (Unit::Percent, -0.00001, "0.0%"),
            (Unit::Percent, 1.0, "100.0%"),
            (Unit::Plain, 2.3456, "2.346"),
            (Unit::Plain, -12.345, "−12.35"),
            (Unit::Plain, 1234.5, "1234.5"),
            (Unit::Fixed(1), 14.04, "14.0"),
            (Unit::Plain, 0.00000012, "1.20e−7"),
            (Unit::Count, 3000.0, "3000"),
            (Unit::Count, 100_000.0, "100k"),
            (Unit::Count, 999_900.0, "1M"),
            (Unit::Count, 1_250_000.0, "1.25M"),
            (Unit::Count, 137e9, "137B"),
            (Unit::Plain, f64::NAN, GAP),
            (Unit::Count, f64::INFINITY, GAP),
        ];
        for (unit, value, text) in shown {
            assert_eq!(unit.show(value), text, "{unit:?} {value}");
        }
        assert_eq!(Unit::Percent.show_with_error(Value::with_error(0.452, 0.013)), "45.2% ± 1.3");
        assert_eq!(Unit::Percent.show_with_error(Value::with_error(0.452, f64::NAN)), "45.2%");
    }

    #[test]
    fn ticks_have_the_digits_that_tell_them_apart() {
        assert_eq!(Unit::Percent.tick(0.2, 0.2), "20%");
        assert_eq!(Unit::Percent.tick(0.205, 0.005), "20.5%");
        assert_eq!(Unit::Plain.tick(2.5, 0.5), "2.5");
        assert_eq!(Unit::Plain.tick(3.0, 1.0), "3");
        assert_eq!(Unit::Plain.tick(0.1, 0.1), "0.1");
    }
}
