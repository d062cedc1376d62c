//! Prometheus text 0.0.4, read with the tolerance that OpenMetrics pages need, whatever the Content-Type says.
//!
//! Grammar per line: `# TYPE name word`, any other `#` line is a comment (`# EOF` ends the page), a blank line, or
//! `name[{label="value",…[,]}] value [timestamp] [# exemplar]`. Names hold `[a-zA-Z0-9_:]`, values are what Go's
//! ParseFloat writes (`+Inf`, `NaN`, `1e5`), escapes in label values are `\\`, `\"` and `\n`.
//!
//! A page is taken whole or not at all: a wrong line may be the trace of a cut or of something that is no metric page,
//! and then its other lines cannot be trusted either. Only a series that occurs twice is dropped alone (both of it).

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Most bytes of a page.
pub const MAX_BYTES: usize = 16 << 20;
/// Most samples of a page.
pub const MAX_SERIES: usize = 10_000;
/// Most labels of one sample.
pub const MAX_LABELS: usize = 64;
/// Most bytes of a metric or label name.
pub const MAX_NAME: usize = 256;
/// Most bytes of a label value, as written.
pub const MAX_VALUE: usize = 1024;

/// A page that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Beyond a limit.
    #[error("the page exceeds a limit in line {line}: {limit}")]
    Limit {
        /// Line, from 1; 0 for the page as a whole.
        line: usize,
        /// The limit in words.
        limit: &'static str,
    },
    /// Not a metric page, or a damaged one.
    #[error("the page is not valid Prometheus text in line {line}: {why}")]
    Malformed {
        /// Line, from 1; 0 for the page as a whole.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The TYPE of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricType {
    /// Only rises, or restarts from 0.
    Counter,
    /// Goes up and down.
    Gauge,
    /// `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Quantiles, `_sum` and `_count`.
    Summary,
    /// Untyped, or a kind nothing is counted from.
    #[serde(skip)]
    Other,
}

impl MetricType {
    /// The word of a TYPE line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Other => "untyped",
        }
    }
}

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'page> {
    /// Name of the sample (`x_total`, `x_sum`), not of its family.
    pub name: &'page str,
    /// Labels in ascending order of their names, none twice.
    pub labels: Vec<(&'page str, Cow<'page, str>)>,
    /// The value, which may be NaN or infinite.
    pub value: f64,
}

impl Sample<'_> {
    /// Value of a label; "" if the sample does not have it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }
}

/// A page that passed every check.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page<'page> {
    types: HashMap<&'page str, MetricType>,
    samples: Vec<Sample<'page>>,
    refused: Vec<Sample<'page>>,
}

impl<'page> Page<'page> {
    /// Reads a page.
    ///
    /// # Errors
    /// Any limit passed, invalid UTF-8, a line of neither form, a family with two TYPEs, text after `# EOF`, or a last
    /// line without its end (a cut page).
    pub fn parse(bytes: &'page [u8]) -> Result<Self, PageError> {
        if bytes.len() > MAX_BYTES {
            return Err(PageError::Limit { line: 0, limit: "16 MiB a page" });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| malformed(0, "it is not UTF-8"))?;
        let last = text.rsplit('\n').next().unwrap_or("");
        if !last.is_empty() && last.trim_end() != "# EOF" {
            return Err(malformed(0, "its last line has no end, so it may be cut"));
        }
        let mut page = Self::default();
        let mut ended = false;
        for (index, line) in text.split('\n').enumerate() {
            let (number, line) = (index + 1, line.trim_matches([' ', '\t', '\r']));
            if line.is_empty() {
                continue;
            }
            if ended {
                return Err(malformed(number, "text after # EOF"));
            }
            if let Some(comment) = line.strip_prefix('#') {
                ended = comment.trim() == "EOF";
                page.comment(comment, number)?;
                continue;
            }
            if page.samples.len() == MAX_SERIES {
                return Err(PageError::Limit { line: number, limit: "10,000 series a page" });
            }
            page.samples.push(Line { rest: line, number }.sample()?);
        }
        page.refuse_duplicates();
        Ok(page)
    }

    /// The samples, each series once.
    pub fn samples(&self) -> &[Sample<'page>] {
        &self.samples
    }

    /// Samples of series that the page holds more than once: which of the values is right cannot be known.
    pub fn refused(&self) -> &[Sample<'page>] {
        &self.refused
    }

    /// TYPE of the family that a sample of this name belongs to if it is of type `expected`: the line may leave out
    /// the `_total` of a counter and never has the `_sum`, `_count` or `_bucket` of a histogram or summary. `None` if
    /// the page has no such line.
    pub fn family_type(&self, sample: &str, expected: MetricType) -> Option<MetricType> {
        let suffixes: &[&str] = match expected {
            MetricType::Counter => &["_total"],
            MetricType::Histogram => &["_sum", "_count", "_bucket"],
            MetricType::Summary => &["_sum", "_count"],
            MetricType::Gauge | MetricType::Other => &[],
        };
        let declared = self.types.get(sample).copied();
        declared.or_else(|| suffixes.iter().find_map(|suffix| self.types.get(sample.strip_suffix(suffix)?).copied()))
    }

    /// Families with a TYPE line, in no order.
    pub fn types(&self) -> impl Iterator<Item = (&'page str, MetricType)> {
        self.types.iter().map(|(name, kind)| (*name, *kind))
    }

    /// The family that a sample of this name belongs to: the name itself where no TYPE line says otherwise.
    pub fn family<'a>(&self, sample: &'a str) -> &'a str {
        if self.types.contains_key(sample) {
            return sample;
        }
        let bases =
            ["_total", "_sum", "_count", "_bucket", "_created"].into_iter().filter_map(|end| sample.strip_suffix(end));
        bases.into_iter().find(|base| self.types.contains_key(base)).unwrap_or(sample)
    }

    /// Whether a family or a sample of this name is on the page.
    pub fn has(&self, name: &str) -> bool {
        self.types.contains_key(name) || self.samples.iter().any(|sample| sample.name == name)
    }

    fn comment(&mut self, comment: &'page str, number: usize) -> Result<(), PageError> {
        let mut words = comment.split_ascii_whitespace();
        if words.next() != Some("TYPE") {
            return Ok(());
        }
        let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) else {
            return Err(malformed(number, "a TYPE line needs a name and a type"));
        };
        if name.len() > MAX_NAME {
            return Err(PageError::Limit { line: number, limit: "256 bytes a name" });
        }
        let kind = match word {
            "counter" => MetricType::Counter,
            "gauge" => MetricType::Gauge,
            "histogram" => MetricType::Histogram,
            "summary" => MetricType::Summary,
            _ => MetricType::Other,
        };
        match self.types.insert(name, kind) {
            Some(before) if before != kind => Err(malformed(number, "the family already has another TYPE")),
            _ => Ok(()),
        }
    }

    fn refuse_duplicates(&mut self) {
        let mut twice = vec![false; self.samples.len()];
        let mut seen = HashMap::with_capacity(self.samples.len());
        for (index, sample) in self.samples.iter().enumerate() {
            match seen.entry((sample.name, &sample.labels[..])) {
                Entry::Occupied(first) => {
                    twice[index] = true;
                    let first: usize = *first.get();
                    twice[first] = true;
                }
                Entry::Vacant(slot) => {
                    slot.insert(index);
                }
            }
        }
        if twice.contains(&true) {
            let mut flags = twice.into_iter();
            let (refused, kept) =
                std::mem::take(&mut self.samples).into_iter().partition(|_| flags.next() == Some(true));
            self.refused = refused;
            self.samples = kept;
        }
    }
}

fn malformed(line: usize, why: &'static str) -> PageError {
    PageError::Malformed { line, why }
}

/// What is left of a sample line.
struct Line<'page> {
    rest: &'page str,
    number: usize,
}

impl<'page> Line<'page> {
    fn sample(mut self) -> Result<Sample<'page>, PageError> {
        let name = self.name(true)?;
        self.skip_blanks();
        let mut labels = Vec::new();
        if self.take('{') {
            self.labels(&mut labels)?;
        } else if !name.is_empty() && !self.after_blank(name) {
            return Err(malformed(self.number, "the name is not followed by a blank"));
        }
        self.skip_blanks();
        let (value, after) = self.rest.split_once([' ', '\t']).unwrap_or((self.rest, ""));
        let value = value.parse().map_err(|_| malformed(self.number, "the value is not a number"))?;
        // An exemplar may hold anything; a timestamp is one number.
        let stamp = after.split('#').next().unwrap_or("").trim();
        if !stamp.is_empty() && stamp.parse::<f64>().is_err() {
            return Err(malformed(self.number, "the timestamp is not a number"));
        }
        Ok(Sample { name, labels, value })
    }

    /// Whether a blank was between the name and what is left: both are slices of one line.
    fn after_blank(&self, name: &str) -> bool {
        name.as_ptr() as usize + name.len() < self.rest.as_ptr() as usize
    }

    fn labels(&mut self, labels: &mut Vec<(&'page str, Cow<'page, str>)>) -> Result<(), PageError> {
        loop {
            self.skip_blanks();
            if self.take('}') {
                break;
            }
            if labels.len() == MAX_LABELS {
                return Err(PageError::Limit { line: self.number, limit: "64 labels a sample" });
            }
            let name = self.name(false)?;
            self.skip_blanks();
            if !self.take('=') {
                return Err(malformed(self.number, "a label has no ="));
            }
            self.skip_blanks();
            labels.push((name, self.quoted()?));
            self.skip_blanks();
            if !self.take(',') && !self.rest.starts_with('}') {
                return Err(malformed(self.number, "labels are not divided by commas"));
            }
        }
        labels.sort_by_key(|(name, _)| *name);
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(malformed(self.number, "a label occurs twice"));
        }
        Ok(())
    }

    fn name(&mut self, colons: bool) -> Result<&'page str, PageError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colons && byte == b':');
        let length = self.rest.bytes().position(|byte| !allowed(byte)).unwrap_or(self.rest.len());
        if length > MAX_NAME {
            return Err(PageError::Limit { line: self.number, limit: "256 bytes a name" });
        }
        let (name, rest) = self.rest.split_at(length);
        if name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
            return Err(malformed(self.number, "it does not start with a name"));
        }
        self.rest = rest;
        Ok(name)
    }

    fn quoted(&mut self) -> Result<Cow<'page, str>, PageError> {
        let Some(body) = self.rest.strip_prefix('"') else {
            return Err(malformed(self.number, "a label value is not quoted"));
        };
        let mut escaped = false;
        let mut slashes = false;
        let end = body.bytes().position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            slashes |= byte == b'\\';
            closes
        });
        let end = end.ok_or(malformed(self.number, "a label value has no closing quote"))?;
        if end > MAX_VALUE {
            return Err(PageError::Limit { line: self.number, limit: "1 KiB a label value" });
        }
        self.rest = &body[end + 1..];
        Ok(if slashes { Cow::Owned(unescape(&body[..end])) } else { Cow::Borrowed(&body[..end]) })
    }

    fn take(&mut self, wanted: char) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }
}

/// Undoes the escapes of a label value; an unknown escape stays as it is written.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(other @ ('\\' | '"')) => out.push(other),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Page<'_>, PageError> {
        Page::parse(text.as_bytes())
    }

    fn is_limit(result: Result<Page<'_>, PageError>) -> bool {
        matches!(result, Err(PageError::Limit { .. }))
    }

    fn is_malformed(text: &str) -> bool {
        matches!(parse(text), Err(PageError::Malformed { .. }))
    }

    #[test]
    fn odd_but_legal_lines_are_read() {
        let text = "a{x=\"1\",} 2\nb 1e3 1700000000000\nc{p=\"/v2/{m}/\\\"i\\\\\\n\"} +Inf\n  d\t4\r\ne{} inf # {t=\"1\"} 3\n# EOF";
        let page = parse(text).expect("legal");
        let values: Vec<_> = page.samples().iter().map(|s| (s.name, s.value)).collect();
        assert_eq!(values, [("a", 2.0), ("b", 1000.0), ("c", f64::INFINITY), ("d", 4.0), ("e", f64::INFINITY)]);
        assert_eq!(page.samples()[2].label("p"), "/v2/{m}/\"i\\\n");
        assert_eq!(page.samples()[2].label("absent"), "");
    }

    #[test]
    fn the_type_is_found_with_and_without_the_suffix() {
        let page =
            parse("# TYPE a counter\na_total 1\n# TYPE b_total counter\n# TYPE h histogram\nh_sum 1\n").expect("legal");
        assert_eq!(page.family_type("a_total", MetricType::Counter), Some(MetricType::Counter));
        assert_eq!(page.family_type("b_total", MetricType::Counter), Some(MetricType::Counter));
        assert_eq!(page.family_type("h_sum", MetricType::Histogram), Some(MetricType::Histogram));
        assert_eq!(page.family_type("h_sum", MetricType::Gauge), None);
    }

    #[test]
    fn pages_that_cannot_be_trusted_fail_as_a_whole() {
        for text in [
            "a 1\nb 2",
            "a 1\nb\n",
            "a 1\nb{x=\"1\n",
            "<!DOCTYPE html><html>login</html>\n",
            "# TYPE a counter\n# TYPE a gauge\n",
            "a 1\n# EOF\nb 2\n",
            "a{x=\"1\",x=\"2\"} 1\n",
            "a 1 2 3\n",
            "a1.5 2\n",
            "a 0x10\n",
            "a{x=\"1\" y=\"2\"} 1\n",
        ] {
            assert!(is_malformed(text), "{text:?}");
        }
        assert!(matches!(Page::parse(b"a{x=\"\xff\"} 1\n"), Err(PageError::Malformed { .. })));
    }

    #[test]
    fn every_limit_refuses_the_page() {
        let labels: String = (0..65).map(|n| format!("l{n}=\"\",")).collect();
        assert!(is_limit(parse(&format!("a{{{labels}}} 1\n"))));
        assert!(is_limit(parse(&format!("a{{x=\"{}\"}} 1\n", "v".repeat(1025)))));
        assert!(parse(&format!("a{{x=\"{}\"}} 1\n", "v".repeat(1024))).is_ok());
        assert!(is_limit(parse(&format!("a{{{}=\"\"}} 1\n", "l".repeat(257)))));
        assert!(is_limit(parse(&format!("{} 1\n", "n".repeat(257)))));
        let series: String = (0..10_001).map(|n| format!("a{{n=\"{n}\"}} 1\n")).collect();
        assert!(is_limit(parse(&series)));
        assert!(is_limit(Page::parse(&vec![b'\n'; MAX_BYTES + 1])));
    }

    #[test]
    fn a_series_that_occurs_twice_is_refused_both_times_and_no_other() {
        let page = parse("a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\na{x=\"1\"} 3\n").expect("legal");
        assert_eq!(page.refused().len(), 2);
        assert_eq!(page.samples().iter().map(|s| s.value).collect::<Vec<_>>(), [3.0]);
    }
}
