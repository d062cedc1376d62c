//! Whom a data point's counts are for, as its attributes tell it.

use super::super::told::Refusal;

/// Bytes of a name.
const MOST_NAME_BYTES: usize = 256;
/// Attributes with the consumer, the best first.
const CONSUMER: [&str; 2] = ["inference.consumer", "enduser.id"];
/// Attributes with the workflow, the best first.
const WORKFLOW: [&str; 2] = ["inference.workflow", "gen_ai.workflow.name"];
/// Attribute with the root of the requests.
const ROOT: &str = "inference.root";

/// Whom counts are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Party<'a> {
    /// Who asked.
    pub consumer: Option<&'a str>,
    /// The workflow that the requests were a part of.
    pub workflow: Option<&'a str>,
    /// What of the workflow started them.
    pub root: Option<&'a str>,
}

impl<'a> Party<'a> {
    /// What these attributes tell; empty texts tell nothing.
    pub fn read(get: impl Fn(&str) -> &'a str) -> Self {
        let told = |names: &[&str]| names.iter().map(|name| get(name)).find(|told| !told.trim().is_empty());
        Self { consumer: told(&CONSUMER), workflow: told(&WORKFLOW), root: told(&[ROOT]) }
    }

    /// What is told of a data point, and where it is silent of its resource: that has no root, which is of one run.
    ///
    /// # Errors
    /// A name that is none, a root of no workflow, or a root of counts that go on: a run has its own and ends.
    pub fn of_point(self, of_resource: Self, cumulative: bool) -> Result<Self, Refusal> {
        let consumer = self.consumer.or(of_resource.consumer);
        let workflow = self.workflow.or(of_resource.workflow);
        let bad = |name: &&str| name.len() > MOST_NAME_BYTES || name.contains(char::is_control);
        if [consumer, workflow, self.root].into_iter().flatten().any(|name| bad(&name)) {
            let why = "a consumer, workflow or root holds at most 256 bytes and no control characters";
            return Err(Refusal::value(why));
        }
        if self.root.is_some() && (workflow.is_none() || cumulative) {
            return Err(Refusal::value("inference.root goes with inference.workflow, and with delta temporality"));
        }
        Ok(Self { consumer, workflow, root: self.root })
    }
}
