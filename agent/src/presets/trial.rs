//! A page read once with a preset, told for people: what would be counted, and what is left out and why.

use crate::inference::exposition::{MetricType, Page, Sample};
use crate::inference::mapping::{Field, Fixed};
use crate::inference::preset::Preset;
use crate::inference::reader::{Consumer, PageIdentity, PageVersion, Reader, Upstream};
use crate::inference::tally::{Counts, FirstPage, Tally};
use joulebook_units::BootNanos;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};

/// What a preset makes of a page, as if all of it had been counted since 0.
#[derive(Debug)]
pub struct Trial {
    preset: String,
    series: usize,
    services: Vec<(String, Counts)>,
    /// Per field that the preset has, whether the page tells it.
    fields: BTreeMap<Field, bool>,
    adapters: bool,
    bad_values: u64,
    duplicates: u64,
    left_out: BTreeMap<String, String>,
}

impl Trial {
    /// Reads the page.
    pub fn new(preset: &Preset, fixed: &Fixed, reader: Reader, page: &Page<'_>) -> Self {
        let told = reader.told(page);
        let fields = reader.evaluate(&told, &[]).into_iter().map(|(field, value)| (field, value.is_some())).collect();
        let left_out = left_out(&reader, &told, page);
        let mut tally = Tally::new(reader);
        tally.new_epoch(FirstPage::CountsFromZero);
        let seen = tally.observe(page, BootNanos(0));
        let services =
            seen.services.iter().map(|(identity, counts)| (service(preset, fixed, identity), counts.clone()));
        let consumers = seen.consumers.iter().map(|(of, counts)| (consumer(of, &seen.upstreams), counts.clone()));
        Self {
            preset: preset.id.clone(),
            series: page.samples().len(),
            services: services.chain(consumers).collect(),
            fields,
            adapters: seen.adapters,
            bad_values: seen.bad_values,
            duplicates: seen.duplicates,
            left_out,
        }
    }
}

impl Display for Trial {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "preset {}: {} series", self.preset, self.series)?;
        if self.services.is_empty() {
            writeln!(out, "nothing is counted: no series of the preset is on the page yet")?;
        }
        for (name, counts) in &self.services {
            writeln!(out, "\n{name}{}", if self.adapters { " adapter=*" } else { "" })?;
            for field in Field::ALL {
                match (self.fields.get(&field), counts.shown.get(&field.kind())) {
                    (None, _) => {}
                    (Some(_), Some(count)) => writeln!(out, "  {:<20} {}", field.name(), amount(field, *count))?,
                    (Some(_), None) => writeln!(out, "  {:<20} unknown: the page does not tell it", field.name())?,
                }
            }
        }
        let untold: Vec<_> =
            Field::ALL.into_iter().filter(|field| !self.fields.contains_key(field)).map(Field::name).collect();
        if !untold.is_empty() {
            writeln!(out, "\nunknown, since the preset has no expression for it: {}", untold.join(", "))?;
        }
        if self.bad_values > 0 {
            writeln!(
                out,
                "\n{} series left out: the value is negative, not finite, beyond 2^53 or part of a count",
                self.bad_values
            )?;
        }
        if self.duplicates > 0 {
            writeln!(out, "\n{} samples left out: their series occurs more than once", self.duplicates)?;
        }
        if !self.left_out.is_empty() {
            writeln!(out, "\nleft out")?;
        }
        for (family, why) in &self.left_out {
            writeln!(out, "  {family}: {why}")?;
        }
        Ok(())
    }
}

/// The name of a consumer, and what it was sent to.
fn consumer(of: &Consumer, upstreams: &BTreeMap<String, Upstream>) -> String {
    let told = of.upstream.deployment.as_ref().and_then(|name| upstreams.get(name)).unwrap_or(&of.upstream);
    let part = |name: &str, value: &Option<String>| {
        value.as_ref().map_or_else(String::new, |value| format!(" {name}={value}"))
    };
    let upstream = part("endpoint", &told.endpoint) + &part("model", &told.model);
    format!("consumer {}={}{upstream}", of.key, of.value)
}

/// The name of a service, and where its parts come from.
fn service(preset: &Preset, fixed: &Fixed, page: &PageIdentity) -> String {
    let asked =
        |is_asked: bool| if is_asked { "unknown to the page, the engine is asked" } else { "unknown to the page" };
    let hooks = &preset.identity;
    let model = match (&page.model, &fixed.model) {
        (Some(model), _) => format!("{model} (label)"),
        (None, Some(model)) => format!("{model} (static)"),
        (None, None) => asked(!hooks.model.0.is_empty()).to_owned(),
    };
    let by_engine = asked(!hooks.version.0.is_empty() || hooks.weights.is_some());
    let version = match (&page.version, &fixed.version) {
        (PageVersion::Label(version), _) => format!("{version} (label)"),
        (_, Some(version)) => format!("{version} (static)"),
        (PageVersion::Denied, None) => format!("{by_engine} (its label holds a word that is no version)"),
        (PageVersion::Untold, None) => by_engine.to_owned(),
    };
    format!("service model={model} version={version}")
}

#[expect(clippy::cast_precision_loss, reason = "printed to the millisecond")]
fn amount(field: Field, count: u64) -> String {
    if field.is_time() { format!("{:.3}", count as f64 / 1e9) } else { count.to_string() }
}

/// Per family of which something is not counted, why.
fn left_out(reader: &Reader, told: &[bool], page: &Page<'_>) -> BTreeMap<String, String> {
    let mut families: BTreeMap<&str, (Option<MetricType>, Vec<&Sample<'_>>)> =
        page.types().map(|(name, kind)| (name, (Some(kind), Vec::new()))).collect();
    for sample in page.samples() {
        families.entry(page.family(sample.name)).or_default().1.push(sample);
    }
    let used = reader.used(told);
    let why = |(family, (kind, samples)): (&str, (Option<MetricType>, Vec<&Sample<'_>>))| {
        let readers: Vec<_> =
            (0..told.len()).filter(|index| page.family(&reader.metrics()[*index].0.name) == family).collect();
        let why = match readers.first().map(|first| reader.metrics()[*first].0.kind.word()) {
            None if samples.iter().any(|sample| reader.tells_adapters(sample.name)) => return None,
            None if family.ends_with("_created") => "when series began, no count".to_owned(),
            None => "no expression reads it".to_owned(),
            Some(wanted) if !readers.iter().any(|index| told[*index]) => {
                format!("its TYPE is {}, not {wanted}", kind.map_or("not told", MetricType::word))
            }
            Some(_) if !readers.iter().any(|index| used[*index]) => {
                "an alternate that stands before it is on the page, or a part of its sum is not".to_owned()
            }
            Some(_) => {
                let read = readers.iter().filter(|index| used[**index]).map(|index| &reader.metrics()[*index].0);
                let read: Vec<_> = read.collect();
                // Parts of a histogram that no expression names belong to what is read.
                let named: Vec<_> =
                    samples.iter().filter(|sample| read.iter().any(|metric| metric.name == sample.name)).collect();
                let taken = |sample: &&&&Sample<'_>| {
                    reader.identity(sample).is_some() && read.iter().any(|metric| metric.takes(sample))
                };
                let counted = named.iter().filter(taken).count();
                match named.len() {
                    0 => "it has no series".to_owned(),
                    all if counted == all => return None,
                    all => format!("{} of {all} series do not meet the preset's conditions", all - counted),
                }
            }
        };
        Some((family.to_owned(), why))
    };
    families.into_iter().filter_map(why).collect()
}
