//! The learning rate as a pure function of the step.

/// Shape of the decay after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// None.
    Constant,
    /// A straight line to the final fraction.
    Linear,
    /// Half a cosine to the final fraction.
    Cosine,
}

/// Warm-up, peak and decay.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Peak learning rate.
    pub peak: f64,
    /// Shape of the decay.
    pub shape: Shape,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// All steps of the run.
    pub total: u64,
    /// Learning rate after the last step, as a fraction of the peak.
    pub last: f64,
}

impl Schedule {
    /// The learning rate of the step after `done` steps: the first step of a warm-up of `n` gets `peak / n`.
    pub fn at(&self, done: u64) -> f64 {
        if done < self.warmup {
            return self.peak * (done + 1) as f64 / self.warmup as f64;
        }
        let span = (self.total.saturating_sub(self.warmup)).max(1) as f64;
        let part = ((done - self.warmup) as f64 / span).min(1.0);
        let fall = match self.shape {
            Shape::Constant => return self.peak,
            Shape::Linear => 1.0 - part,
            Shape::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * part)),
        };
        self.peak * (self.last + (1.0 - self.last) * fall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_and_decays() {
        let s = Schedule { peak: 2.0, shape: Shape::Linear, warmup: 4, total: 12, last: 0.5 };
        let got: Vec<f64> = (0..14).map(|i| s.at(i)).collect();
        assert_eq!(&got[..6], &[0.5, 1.0, 1.5, 2.0, 2.0, 1.875]);
        assert_eq!((got[12], got[13]), (1.0, 1.0));
        let c = Schedule { shape: Shape::Cosine, ..s };
        assert!((c.at(8) - 1.5).abs() < 1e-12 && (c.at(12) - 1.0).abs() < 1e-12);
        assert_eq!(Schedule { shape: Shape::Constant, ..s }.at(11), 2.0);
    }
}
