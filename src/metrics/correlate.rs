//! Correlation of two lists of numbers (STS-B), as SciPy computes it.
//!
//! `None` where a correlation has no value: fewer than two pairs, lists of different lengths, a number that is not
//! finite, or a list whose numbers are all alike.

fn deviations(x: &[f64]) -> Option<(Vec<f64>, f64)> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let d: Vec<f64> = x.iter().map(|v| v - mean).collect();
    let norm = d.iter().map(|v| v * v).sum::<f64>().sqrt();
    // Equal numbers need not deviate by exactly 0 from their rounded mean.
    let varied = x.iter().any(|v| v != &x[0]);
    (varied && norm.is_finite() && norm > 0.0).then_some((d, norm))
}

/// Pearson's product-moment correlation, in -1..=1.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    let ((dx, nx), (dy, ny)) = (deviations(x)?, deviations(y)?);
    let r: f64 = dx.iter().zip(&dy).map(|(a, b)| (a / nx) * (b / ny)).sum();
    Some(r.clamp(-1.0, 1.0))
}

/// Ranks from 1; equal numbers share the mean of their ranks.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let mut ranks = vec![0.0; x.len()];
    let mut before = 0;
    // `==` joins the two zeros, which `total_cmp` orders.
    for equal in order.chunk_by(|&a, &b| x[a] == x[b]) {
        let rank = before as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&i| ranks[i] = rank);
        before += equal.len();
    }
    ranks
}

/// Spearman's rank correlation, in -1..=1: Pearson's of the ranks.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let finite = x.iter().chain(y).all(|v| v.is_finite());
    finite.then(|| pearson(&ranks(x), &ranks(y)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_share_a_rank() {
        assert_eq!(ranks(&[3.0, -0.0, 7.0, 0.0, 3.0, 3.0]), [4.0, 1.5, 6.0, 1.5, 4.0, 4.0]);
    }

    #[test]
    fn no_value_where_there_is_none() {
        let x = [1.0, 2.0, 3.0];
        for y in [&[0.1; 3][..], &[1.0, f64::NAN, 2.0], &[1.0, f64::INFINITY, 2.0], &[1.0, 2.0], &[]] {
            assert_eq!((pearson(&x, y), spearman(&x, y)), (None, None));
        }
        assert_eq!(pearson(&[1.0], &[1.0]), None);
    }
}
