//! The documents of a BMC that are known so far. Reading them is pure: where one is missing, the reader ends with its
//! name, whoever reads fetches it and begins anew.

use super::value::canonical;
use serde_json::Value;
use std::collections::BTreeMap;

/// The link that must be fetched before reading can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need(pub String);

/// Documents by link, and links that have none.
#[derive(Debug, Clone, Default)]
pub struct Documents(BTreeMap<String, Option<Value>>);

impl Documents {
    /// The document of a link; none if the BMC has none there.
    ///
    /// # Errors
    /// It was not asked for yet.
    pub fn get(&self, uri: &str) -> Result<Option<&Value>, Need> {
        self.0.get(canonical(uri)).map(Option::as_ref).ok_or_else(|| Need(without_fragment(uri)))
    }

    /// The members of a collection, with all of its pages, each once and in order.
    ///
    /// # Errors
    /// A page was not asked for yet.
    pub fn members(&self, uri: &str) -> Result<Vec<String>, Need> {
        let (mut found, mut seen, mut next) = (Vec::<String>::new(), Vec::new(), Some(uri.to_owned()));
        while let Some(page) = next.take() {
            seen.push(canonical(&page).to_owned());
            let Some(document) = self.get(&page)? else { break };
            for member in super::value::links(document, "Members") {
                if !found.iter().any(|known| canonical(known) == canonical(member)) {
                    found.push(member.to_owned());
                }
            }
            let follows = document.get("Members@odata.nextLink").and_then(Value::as_str);
            next = follows.filter(|page| !seen.iter().any(|seen| seen == canonical(page))).map(str::to_owned);
        }
        Ok(found)
    }

    /// Keeps what a link gave; none for a link that leads nowhere.
    pub fn keep(&mut self, uri: &str, document: Option<Value>) {
        self.0.insert(canonical(uri).to_owned(), document);
    }

    /// Forgets the values of a link: they are fetched anew.
    pub fn forget(&mut self, uri: &str) {
        self.0.remove(canonical(uri));
    }

    /// Number of links known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The link as it was given: some BMCs know a resource only with its closing slash.
fn without_fragment(uri: &str) -> String {
    uri.split_once('#').map_or(uri, |(path, _)| path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_collection_in_pages_is_one_list_even_where_a_page_leads_back() {
        let mut documents = Documents::default();
        assert_eq!(documents.members("/c"), Err(Need("/c".to_owned())));
        documents.keep("/c", Some(json!({"Members": [{"@odata.id": "/c/1"}], "Members@odata.nextLink": "/c?skip=1"})));
        assert_eq!(documents.members("/c"), Err(Need("/c?skip=1".to_owned())));
        let second =
            json!({"Members": [{"@odata.id": "/c/1/"}, {"@odata.id": "/c/2"}], "Members@odata.nextLink": "/c"});
        documents.keep("/c?skip=1", Some(second));
        assert_eq!(documents.members("/c"), Ok(vec!["/c/1".to_owned(), "/c/2".to_owned()]));
    }

    #[test]
    fn members_that_are_null_are_none() {
        let mut documents = Documents::default();
        documents.keep("/c", Some(json!({"Members": null})));
        assert_eq!(documents.members("/c"), Ok(Vec::new()));
    }
}
