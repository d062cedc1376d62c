//! A mapping made ready for use: its metrics are numbered, so that sums can be kept per metric in a list.

use super::distribution::Distributed;
use super::exposition::{Page, Sample};
use super::mapping::{Expression, Field, Filter, FirstLabel, Labels, Mapping, Metric, UpstreamLabels};
use super::preset::PresetError;
use std::collections::{BTreeMap, BTreeSet};

/// Words in a version label that are no version.
pub const NO_VERSION: [&str; 8] = ["", "None", "none", "default", "latest", "not available", "unknown", "-1"];

/// Names that the page gives to a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIdentity {
    /// Model; `None` if the page names none.
    pub model: Option<String>,
    /// What the page says about the version.
    pub version: PageVersion,
    /// On a gateway's page, who the requests were for.
    pub consumer: Option<Consumer>,
}

/// Who requests were for, as a gateway names them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Consumer {
    /// The label.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What they were sent to.
    pub upstream: Upstream,
}

/// What a gateway sends requests to, as one series names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream {
    /// The gateway's own name for it. Where there is one, other series may tell the rest.
    pub deployment: Option<String>,
    /// Its address.
    pub endpoint: Option<String>,
    /// The model that it is asked for.
    pub model: Option<String>,
}

/// What the page says about the version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageVersion {
    /// No label for it.
    Untold,
    /// A word of [`NO_VERSION`], or one that the mapping adds.
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
    only: Vec<(String, Filter)>,
    consumer: Option<FirstLabel>,
    upstream: UpstreamLabels,
    distributed: Distributed,
    no_version: Vec<String>,
    adapters: Vec<Metric>,
}

impl Reader {
    /// Makes a mapping ready.
    ///
    /// # Errors
    /// The mapping counts nothing, or opens no service.
    pub fn new(mapping: Mapping) -> Result<Self, PresetError> {
        let Mapping { labels, opened_by, adapters, consumer, upstream, no_version, .. } = mapping;
        let distributed = Distributed::new(mapping.distributions);
        if opened_by.is_some_and(|field| !mapping.values.contains_key(&field)) {
            return Err(PresetError::NeverOpened);
        }
        let only = mapping.only.into_iter().collect();
        let (metrics, fields) = (Vec::new(), Vec::new());
        let mut reader =
            Self { labels, metrics, fields, opened_by, only, consumer, upstream, distributed, no_version, adapters };
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

    /// Whether the page is a gateway's: it counts by consumer, and no service.
    pub fn is_gateway(&self) -> bool {
        self.consumer.is_some()
    }

    /// Which service or consumer a sample belongs to; `None` if it is not to be read, or a gateway names no consumer.
    pub fn identity(&self, sample: &Sample<'_>) -> Option<PageIdentity> {
        if !self.takes(sample) {
            return None;
        }
        let consumer = match &self.consumer {
            None => None,
            Some(labels) => {
                let (key, value) = labels.read(sample, |value| !self.denies(value))?;
                Some(Consumer { key: key.to_owned(), value: value.to_owned(), upstream: self.upstream(sample) })
            }
        };
        let version = match self.labels.version.as_ref().and_then(|names| names.read(sample)) {
            None => PageVersion::Untold,
            Some(word) if self.denies(&word) => PageVersion::Denied,
            Some(word) => PageVersion::Label(word),
        };
        let model = self.labels.model.as_ref().and_then(|names| names.read(sample)).filter(|name| !name.is_empty());
        Some(PageIdentity { model, version, consumer })
    }

    /// What a sample of a gateway was sent to. Where it has a name of the gateway's own, that is all: what else different
    /// series say of it is put together by [`Self::upstreams`].
    fn upstream(&self, sample: &Sample<'_>) -> Upstream {
        let all = self.whole_upstream(sample);
        match all.deployment {
            Some(_) => Upstream { endpoint: None, model: None, ..all },
            None => all,
        }
    }

    fn whole_upstream(&self, sample: &Sample<'_>) -> Upstream {
        let read = |labels: &Option<FirstLabel>| {
            let (_, value) = labels.as_ref()?.read(sample, |value| !self.denies(value))?;
            Some(value.to_owned())
        };
        let UpstreamLabels { deployment, endpoint, model } = &self.upstream;
        Upstream { deployment: read(deployment), endpoint: read(endpoint), model: read(model) }
    }

    /// What the page of a gateway says of upstreams that have a name, by that name: of each the first series that tells an
    /// address, else the first that names a model.
    pub fn upstreams(&self, page: &Page<'_>) -> BTreeMap<String, Upstream> {
        let mut upstreams: BTreeMap<String, Upstream> = BTreeMap::new();
        if self.upstream.deployment.is_none() {
            return upstreams;
        }
        for told in page.samples().iter().map(|sample| self.whole_upstream(sample)) {
            let Some(name) = told.deployment.clone() else { continue };
            let known = upstreams.entry(name).or_insert_with(|| told.clone());
            if known.endpoint.is_none() && told.endpoint.is_some() {
                *known = told;
            } else if known.model.is_none() {
                known.model = told.model;
            }
        }
        upstreams
    }

    /// Histograms whose buckets are kept.
    pub fn distributed(&self) -> &Distributed {
        &self.distributed
    }

    /// Models on the page whose version no label tells.
    pub fn models_without_version(&self, page: &Page<'_>) -> BTreeSet<String> {
        let counted = |sample: &&Sample<'_>| self.metrics.iter().any(|(metric, _)| metric.name == sample.name);
        let identities = page.samples().iter().filter(counted).filter_map(|sample| self.identity(sample));
        let untold = identities.filter(|identity| !matches!(identity.version, PageVersion::Label(_)));
        untold.filter_map(|identity| identity.model).collect()
    }

    /// Whether the mapping's conditions let a sample be read.
    pub fn takes(&self, sample: &Sample<'_>) -> bool {
        self.only.iter().all(|(label, filter)| filter.passes(sample.label(label)))
    }

    fn denies(&self, word: &str) -> bool {
        NO_VERSION.contains(&word) || self.no_version.iter().any(|denied| denied == word)
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

    /// Whether a sample of this name could say so.
    pub fn tells_adapters(&self, name: &str) -> bool {
        self.adapters.iter().any(|metric| metric.name == name)
    }

    /// Values of all fields from sums per metric; a field is `None` where its metrics are not told.
    pub fn evaluate(&self, told: &[bool], sums: &[u128]) -> Vec<(Field, Option<u128>)> {
        self.fields.iter().map(|(field, node)| (*field, self.value(node, told, sums))).collect()
    }

    /// Per metric, whether its sum goes into a field: an alternate that stands behind one that is told does not.
    pub fn used(&self, told: &[bool]) -> Vec<bool> {
        let mut used = vec![false; self.metrics.len()];
        for (_, node) in &self.fields {
            self.mark(node, told, &mut used);
        }
        used
    }

    fn mark(&self, node: &Node, told: &[bool], used: &mut [bool]) {
        match node {
            Node::Metric(index) => used[*index] = told[*index],
            Node::Add(parts) => parts.iter().for_each(|part| self.mark(part, told, used)),
            Node::Sub(parts) => parts.iter().for_each(|part| self.mark(part, told, used)),
            Node::First(parts) => {
                if let Some(part) = parts.iter().find(|part| self.value(part, told, &[]).is_some()) {
                    self.mark(part, told, used);
                }
            }
        }
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
        let seen: Vec<_> = page.samples().iter().filter_map(|sample| reader.identity(sample)).collect();
        let named =
            |model: Option<&str>, version| PageIdentity { model: model.map(str::to_owned), version, consumer: None };
        assert_eq!(seen[0], named(Some("x/y"), PageVersion::Denied));
        assert_eq!(seen[1], named(Some("x/"), PageVersion::Label("2".into())));
        assert_eq!(seen[2], named(None, PageVersion::Untold));
        assert!(matches!(Reader::new(Mapping::default()), Err(PresetError::Empty)));
        let closed = "opened_by = \"requests_ok\"\nvalues.items = { metric = \"a\", type = \"counter\" }";
        let closed = Reader::new(toml::from_str(closed).expect("valid"));
        assert!(matches!(closed, Err(PresetError::NeverOpened)));
    }
    fn read(mapping: &str, page: &str) -> Vec<Option<PageIdentity>> {
        let mapping = format!("{mapping}\nvalues.items = {{ metric = \"a\", type = \"counter\" }}");
        let reader = Reader::new(toml::from_str(&mapping).expect("valid")).expect("counts");
        let page = Page::parse(page.as_bytes()).expect("legal");
        page.samples().iter().map(|sample| reader.identity(sample)).collect()
    }

    #[test]
    fn a_mapping_may_deny_more_words_and_leave_series_out() {
        let mapping = "labels.version = \"v\"\nno_version = [\"main\"]\nonly.m = { not_in = [\"unknown\"] }";
        let seen = read(mapping, "a{v=\"main\"} 1\na{v=\"2\",m=\"unknown\"} 1\na{v=\"2\"} 1\n");
        let versions = seen.into_iter().map(|identity| identity.map(|identity| identity.version));
        assert_eq!(
            versions.collect::<Vec<_>>(),
            [Some(PageVersion::Denied), None, Some(PageVersion::Label("2".into()))]
        );
    }

    #[test]
    fn a_gateways_series_belong_to_the_consumer_that_the_first_label_names() {
        let page = "a{team=\"t\",user=\"u\"} 1\na{team=\"\",user=\"u\"} 1\na{team=\"None\"} 1\na 1\n";
        let seen = read("consumer = [\"team\", \"user\"]", page);
        let consumer = |key: &str, value: &str| {
            Some(Consumer { key: key.into(), value: value.into(), upstream: Upstream::default() })
        };
        let consumers = seen.into_iter().map(|identity| identity.and_then(|identity| identity.consumer));
        assert_eq!(consumers.collect::<Vec<_>>(), [consumer("team", "t"), consumer("user", "u"), None, None]);
    }

    #[test]
    fn what_a_gateway_asks_is_put_together_from_series_that_share_its_name() {
        let mapping = "consumer = \"team\"\nupstream = { deployment = \"id\", endpoint = \"base\", model = [\"name\", \"model\"] }\n\
            values.items = { metric = \"a\", type = \"counter\" }";
        let reader = Reader::new(toml::from_str(mapping).expect("valid")).expect("counts");
        let page = "a{team=\"t\",id=\"1\",model=\"m\"} 1\nb{id=\"1\",base=\"http://e:1\",name=\"n\"} 1\n\
            a{team=\"t\",id=\"None\",model=\"x\"} 1\nb{id=\"2\",model=\"k\"} 1\n";
        let page = Page::parse(page.as_bytes()).expect("legal");
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let upstream = |deployment, endpoint, model| Upstream {
            deployment: text(deployment),
            endpoint: text(endpoint),
            model: text(model),
        };
        let seen: Vec<_> = page.samples().iter().filter_map(|sample| reader.identity(sample)?.consumer).collect();
        assert_eq!(
            seen.into_iter().map(|consumer| consumer.upstream).collect::<Vec<_>>(),
            [upstream("1", "", ""), upstream("", "", "x")]
        );
        let all = [("1".to_owned(), upstream("1", "http://e:1", "n")), ("2".to_owned(), upstream("2", "", "k"))];
        assert_eq!(reader.upstreams(&page), BTreeMap::from(all));
    }
}
