//! A power law through points: cost = a × size^slope.

/// A cost and what it grows with.
pub struct Law {
    cost: &'static str,
    with: &'static str,
    expected: f64,
    alarm: f64,
    /// What it may cost at any size.
    most: Option<f64>,
    points: Vec<(f64, f64)>,
}

impl Law {
    /// Nothing is measured yet; the alarm is above a slope.
    pub fn new(cost: &'static str, with: &'static str, expected: f64, alarm: f64) -> Self {
        Self { cost, with, expected, alarm, most: None, points: Vec::new() }
    }

    /// The same, with an alarm where it costs more than this at any size.
    pub fn at_most(self, most: f64) -> Self {
        Self { most: Some(most), ..self }
    }

    /// Something of this size cost so much; both above 0.
    pub fn point(&mut self, size: f64, cost: f64) {
        self.points.push((size, cost));
    }

    /// The slope of the line of least squares through the logarithms; none of fewer than two sizes.
    pub fn slope(&self) -> Option<f64> {
        let count = self.points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| self.points.iter().map(|point| of(point).ln()).sum::<f64>() / count;
        let (size, cost) = (mean(|point| point.0), mean(|point| point.1));
        let (mut both, mut square) = (0.0, 0.0);
        for point in &self.points {
            both += (point.0.ln() - size) * (point.1.ln() - cost);
            square += (point.0.ln() - size).powi(2);
        }
        (square > 0.0).then(|| both / square)
    }

    /// Its line of the table.
    pub fn line(&self) -> String {
        let points: Vec<String> = self.points.iter().map(|(size, cost)| format!("{size}: {cost:.3}")).collect();
        let slope = self.slope();
        let too_much = self.most.is_some_and(|most| self.points.iter().any(|(_, cost)| *cost > most));
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.cost,
            self.with,
            points.join(", "),
            self.expected,
            slope.map_or_else(|| "–".to_owned(), |slope| format!("{slope:.3}")),
            self.alarm,
            self.most.map_or_else(|| "–".to_owned(), |most| most.to_string()),
            match slope {
                _ if too_much => "alarm",
                None => "not measured",
                Some(slope) if slope > self.alarm => "alarm",
                Some(_) => "held",
            }
        )
    }
}
