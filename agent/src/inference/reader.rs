//! A mapping made ready for use: its metrics are numbered, so that sums can be kept per metric in a list.

use super::exposition::{Page, Sample};
use super::mapping::{Expression, Field, Labels, Mapping, Metric};
use super::preset::PresetError;

/// Words in a version label that are no version.
pub const NO_VERSION: [&str; 8] = ["", "None", "none", "default", "latest", "not available", "unknown", "-1"];

/// Names that the page gives to a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIdentity {
    /// Model; `None` if the page names none.
    pub model: Option<String>,
    /// What the page says about the version.
    pub version: PageVersion,
}

/// What the page says about the version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageVersion {
    /// No label for it.
    Untold,
    /// A word of [`NO_VERSION`].
    Denied,
    /// The label's value.
    Label(String),
}

/// An expression over numbered metrics.
#[derive(Debug, Clone)]
enum Node {
    Metric(usize),
    Add(Vec<Node>),
    Sub(Box<[Node; 2]>),
    First(Vec<Node>),
}

/// A mapping made ready: metrics are numbered, so that sums can be kept in a list.
#[derive(Debug, Clone)]
pub struct Reader {
    labels: Labels,
    metrics: Vec<(Metric, Field)>,
    fields: Vec<(Field, Node)>,
    opened_by: Option<Field>,
    adapters: Vec<Metric>,
}

impl Reader {
    /// Makes a mapping ready.
    ///
    /// # Errors
    /// The mapping counts nothing, or opens no service.
    pub fn new(mapping: Mapping) -> Result<Self, PresetError> {
        let Mapping { labels, opened_by, adapters, .. } = mapping;
        if opened_by.is_some_and(|field| !mapping.values.contains_key(&field)) {
            return Err(PresetError::NeverOpened);
        }
        let mut reader = Self { labels, metrics: Vec::new(), fields: Vec::new(), opened_by, adapters };
        for (field, expression) in mapping.values {
            let node = reader.number(expression, field);
            reader.fields.push((field, node));
        }
        if reader.metrics.is_empty() { Err(PresetError::Empty) } else { Ok(reader) }
    }

    /// The numbered metrics, each with the field it serves.
    pub fn metrics(&self) -> &[(Metric, Field)] {
        &self.metrics
    }

    /// The fields that have an expression.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        self.fields.iter().map(|(field, _)| *field)
    }

    /// Which service a sample belongs to.
    pub fn identity(&self, sample: &Sample<'_>) -> PageIdentity {
        let version = match self.labels.version.as_ref().and_then(|names| names.read(sample)) {
            None => PageVersion::Untold,
            Some(word) if NO_VERSION.contains(&word.as_str()) => PageVersion::Denied,
            Some(word) => PageVersion::Label(word),
        };
        let model = self.labels.model.as_ref().and_then(|names| names.read(sample)).filter(|name| !name.is_empty());
        PageIdentity { model, version }
    }

    /// Per metric, whether the page has its family with the expected TYPE.
    pub fn told(&self, page: &Page<'_>) -> Vec<bool> {
        self.metrics.iter().map(|(metric, _)| typed(page, metric)).collect()
    }

    /// Whether values of [`Self::evaluate`] are enough for a service to open.
    pub fn opens(&self, values: &[(Field, Option<u128>)]) -> bool {
        let above = |field| values.iter().any(|(own, value)| *own == field && value.is_some_and(|value| value > 0));
        self.opened_by.is_none_or(above)
    }

    /// Whether the page says that adapters are counted in their base.
    pub fn adapters(&self, page: &Page<'_>) -> bool {
        let mut signs = self.adapters.iter().filter(|metric| typed(page, metric));
        signs.any(|metric| page.samples().iter().any(|sample| metric.takes(sample)))
    }

    /// Values of all fields from sums per metric; a field is `None` where its metrics are not told.
    pub fn evaluate(&self, told: &[bool], sums: &[u128]) -> Vec<(Field, Option<u128>)> {
        self.fields.iter().map(|(field, node)| (*field, self.value(node, told, sums))).collect()
    }

    fn value(&self, node: &Node, told: &[bool], sums: &[u128]) -> Option<u128> {
        match node {
            Node::Metric(index) => {
                let sum = told.get(*index)?.then(|| sums.get(*index).copied().unwrap_or(0))?;
                Some(scaled(sum, self.metrics.get(*index)?.0.scale))
            }
            Node::Add(parts) => {
                parts.iter().try_fold(0_u128, |sum, part| Some(sum.saturating_add(self.value(part, told, sums)?)))
            }
            Node::Sub(parts) => {
                Some(self.value(&parts[0], told, sums)?.saturating_sub(self.value(&parts[1], told, sums)?))
            }
            Node::First(parts) => parts.iter().find_map(|part| self.value(part, told, sums)),
        }
    }

    fn number(&mut self, expression: Expression, field: Field) -> Node {
        match expression {
            Expression::Metric(metric) => {
                self.metrics.push((metric, field));
                Node::Metric(self.metrics.len() - 1)
            }
            Expression::Add(parts) => Node::Add(parts.into_iter().map(|part| self.number(part, field)).collect()),
            Expression::First(parts) => Node::First(parts.into_iter().map(|part| self.number(part, field)).collect()),
            Expression::Sub(parts) => Node::Sub(Box::new(parts.map(|part| self.number(part, field)))),
        }
    }
}

fn typed(page: &Page<'_>, metric: &Metric) -> bool {
    page.family_type(&metric.name, metric.kind) == Some(metric.kind)
}

/// A sum times its unit's factor. Exact without one; with one it rounds, and it never falls while the sum grows.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a positive product of a positive sum; the cast saturates"
)]
fn scaled(sum: u128, scale: f64) -> u128 {
    if scale.to_bits() == 1.0_f64.to_bits() { sum } else { (sum as f64 * scale).round() as u128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_joined_and_words_that_are_no_version_are_denied() {
        let mapping = "labels = { model = [\"app\", \"part\"], version = \"v\" }\nvalues.items = { metric = \"a\", type = \"counter\" }";
        let reader = Reader::new(toml::from_str(mapping).expect("valid")).expect("counts");
        let page =
            Page::parse(b"a{app=\"x\",part=\"y\",v=\"latest\"} 1\na{app=\"x\",v=\"2\"} 1\na 1\n").expect("legal");
        let seen: Vec<_> = page.samples().iter().map(|sample| reader.identity(sample)).collect();
        assert_eq!(seen[0], PageIdentity { model: Some("x/y".into()), version: PageVersion::Denied });
        assert_eq!(seen[1], PageIdentity { model: Some("x/".into()), version: PageVersion::Label("2".into()) });
        assert_eq!(seen[2], PageIdentity { model: None, version: PageVersion::Untold });
        assert!(matches!(Reader::new(Mapping::default()), Err(PresetError::Empty)));
        let closed = "opened_by = \"requests_ok\"\nvalues.items = { metric = \"a\", type = \"counter\" }";
        let closed = Reader::new(toml::from_str(closed).expect("valid"));
        assert!(matches!(closed, Err(PresetError::NeverOpened)));
    }
}
