//! Answers: question → cells of every node → allocated slots × factors → an answer with everything it stands on.
//!
//! Nothing is stored as an answer. Policy, level and unit are chosen by the question, factors by the configuration of the
//! moment; the same rows give the same answer.

mod accelerator;
mod alias;
mod amount;
mod answer;
mod consumer;
mod energy;
mod explain;
mod gather;
mod idle;
mod input;
mod job;
mod layer;
mod name;
mod namespace;
pub mod overview;
mod own;
mod question;
mod rated;
mod sums;
pub mod warm;

use crate::clock::Clock;
use crate::directory::Directories;
use crate::factor::{Asked, Factors};
use crate::memory::{Memory, Spent};
use crate::store::{Book, StoreError};
use gather::{Gathered, Present};
pub use job::{Job, JobOf, JobUse};
use joulebook_proto::query::query_service_server::{QueryService, QueryServiceServer};
use joulebook_proto::query::{
    EnergyBy, ExplainRequest, ExplainResponse, GetAliasHistoryRequest, GetAliasHistoryResponse, GetEnergyRequest,
    GetEnergyResponse, GetIdleRequest, GetIdleResponse, GetSciRequest, GetSciResponse,
};
use joulebook_sci::consumer::Consumers;
use joulebook_sci::impact::Impacts;
use joulebook_sci::{ModelVersion, SlotTerm, Totals};
use joulebook_units::Window;
use name::Names;
use question::Question;
use rated::Rated;
use std::collections::BTreeMap;
use std::sync::Arc;
use sums::Sums;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

/// Largest answer in bytes: the terms of a year of slots.
pub const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The question is malformed.
    #[error("{0}")]
    Invalid(String),
    /// Nothing of the kind was seen in the window.
    #[error("{0}")]
    NotFound(String),
    /// A factor is missing.
    #[error("{0}")]
    Factor(String),
    /// It needs more memory than there is.
    #[error(transparent)]
    Spent(#[from] Spent),
    /// It has more terms than one answer may hold.
    #[error(transparent)]
    Long(#[from] explain::Long),
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<QueryError> for Status {
    fn from(error: QueryError) -> Self {
        let message = error.to_string();
        match error {
            QueryError::Invalid(_) => Self::invalid_argument(message),
            QueryError::NotFound(_) => Self::not_found(message),
            QueryError::Factor(_) => Self::failed_precondition(message),
            QueryError::Spent(_) | QueryError::Long(_) => Self::resource_exhausted(message),
            QueryError::Store(_) => Self::data_loss(message),
        }
    }
}

/// A computed question: its totals and what they were made with.
struct Computed<'a> {
    gathered: Gathered<'a>,
    /// Factors that it was made with.
    factors: Arc<Factors>,
    totals: Totals,
    /// Meters that contain parts or nodes.
    meters: BTreeMap<layer::MeterKey, layer::MeterSum>,
    /// PUEs that were used, by site.
    pues: gather::PueOrigins,
    /// Water, abiotic depletion and primary energy by version; nothing below facility level.
    impacts: Impacts,
}

/// The query service.
pub struct Query {
    book: Arc<Book>,
    factors: watch::Receiver<Arc<Factors>>,
    directories: watch::Receiver<Arc<Directories>>,
    clock: Arc<dyn Clock>,
    memory: Memory,
    /// Questions that wait for their turn, and how many are answered at a time.
    turns: Arc<Semaphore>,
    /// Sums of energy, unless every slot is added up anew.
    sums: Option<Sums>,
}

impl Query {
    /// A service over a book, with the factors that are in force when a question comes.
    pub fn new(book: Arc<Book>, factors: watch::Receiver<Arc<Factors>>, clock: Arc<dyn Clock>) -> Self {
        let directories = watch::channel(Arc::default()).1;
        let memory = Memory::default();
        let sums = Some(Sums::within(memory));
        Self { book, factors, directories, clock, memory, turns: turns(memory), sums }
    }

    /// The same with the labels of nodes: where they stand is read from them where they do not say it themselves.
    pub fn labelled(self, directories: watch::Receiver<Arc<Directories>>) -> Self {
        Self { directories, ..self }
    }

    /// The same within a memory: what would need more is refused.
    pub fn within(self, memory: Memory) -> Self {
        Self { memory, turns: turns(memory), sums: self.sums.map(|_| Sums::within(memory)), ..self }
    }

    /// The same that adds up every slot of a window for each question: the plain way to the same answers.
    #[must_use]
    pub fn remembering_nothing(self) -> Self {
        Self { sums: None, ..self }
    }

    /// The service, ready to be added to a server.
    pub fn into_server(self) -> QueryServiceServer<Answering> {
        Self::server(Arc::new(self))
    }

    /// The same where others ask it, too.
    pub fn server(self: Arc<Self>) -> QueryServiceServer<Answering> {
        QueryServiceServer::new(Answering(self)).max_encoding_message_size(MAX_ANSWER_BYTES)
    }

    /// SCI of every selected model version.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn sci(&self, request: &GetSciRequest) -> Result<GetSciResponse, QueryError> {
        let question = Question::parse(request)?;
        let computed = self.compute_sci(&question)?;
        let selected = question.select(&computed.totals)?;
        let generated_at = self.clock.unix();
        let context = answer::Context {
            computed: &computed,
            question: &question,
            factors: &computed.factors,
            book: &self.book,
            generated_at,
            share: None,
        };
        let Some(entity) = question.entity else {
            let each = selected.into_iter().map(|(version, totals)| context.answer(version, totals));
            return Ok(GetSciResponse { answers: each.collect::<Result<_, _>>()? });
        };
        let consumers = Consumers::new(&computed.totals, entity);
        let mut answers = Vec::new();
        for (version, totals) in selected {
            for (part, share) in consumer::parts(&consumers, version, totals) {
                answers.push(answer::Context { share: Some(&share), ..context }.answer(version, &part.totals)?);
            }
        }
        Ok(GetSciResponse { answers })
    }

    /// Energy by something.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn energy(&self, request: &GetEnergyRequest) -> Result<GetEnergyResponse, QueryError> {
        let question = Question::parse_energy(request)?;
        let by = energy::asked_by(request)?;
        let computed = self.compute_energy(&question, by)?;
        energy::rows(&computed, &question, by)
    }

    /// The terms of one answer.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn explain(&self, request: &ExplainRequest) -> Result<ExplainResponse, QueryError> {
        let asked =
            request.question.as_ref().ok_or_else(|| QueryError::Invalid("explain needs a question".to_owned()))?;
        let question = Question::parse(asked)?;
        let mut listed = explain::Listed::new(&question, self.memory.answer());
        let computed = self.compute_each(&question, &mut |slot, terms| listed.add(slot, terms))?;
        let selected = question.select(&computed.totals)?;
        let [(version, totals)] = selected.as_slice() else {
            let names = Names::of(selected.iter().map(|(version, _)| *version));
            let names: Vec<String> = selected.iter().map(|(version, _)| names.full(version)).collect();
            return Err(QueryError::Invalid(format!(
                "explain takes one model version; name one of, by version, weights and set-up: {}",
                names.join(", ")
            )));
        };
        let generated_at = self.clock.unix();
        let context = answer::Context {
            computed: &computed,
            question: &question,
            factors: &computed.factors,
            book: &self.book,
            generated_at,
            share: None,
        };
        let answer = context.answer(version, totals)?;
        Ok(listed.into_answer(&computed, totals, answer))
    }

    /// What a name stood for.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn alias_history(&self, request: &GetAliasHistoryRequest) -> Result<GetAliasHistoryResponse, QueryError> {
        let window = question::window(request.window.as_ref())?;
        let factors = Arc::clone(&self.factors.borrow());
        let labels = Arc::clone(&self.directories.borrow());
        let gathered = Gathered::new(&self.book, &factors, window, Asked::default(), self.present(&labels))?;
        alias::history(&gathered, &request.alias)
    }

    /// Idle capacity.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn idle(&self, request: &GetIdleRequest) -> Result<GetIdleResponse, QueryError> {
        let question = Question::parse_idle(request)?;
        let factors = Arc::clone(&self.factors.borrow());
        let labels = Arc::clone(&self.directories.borrow());
        idle::answer(&self.book, &factors, &question, self.present(&labels))
    }

    fn present<'a>(&self, labels: &'a Directories) -> Present<'a> {
        Present { now: self.clock.unix(), labels, memory: self.memory.begin() }
    }

    /// Energy without any factor: of some questions from sums, of others slot by slot.
    fn compute_energy(&self, question: &Question, by: EnergyBy) -> Result<Computed<'_>, QueryError> {
        let factors = Arc::clone(&self.factors.borrow());
        let labels = Arc::clone(&self.directories.borrow());
        let begin = self.book.version();
        let gathered = Gathered::of_energy(&self.book, &factors, question.window, self.present(&labels))?;
        let known = match self.sums.as_ref().filter(|_| sums::hold(by)) {
            Some(sums) => sums.totals(&gathered, question, (&self.book, begin))?,
            None => None,
        };
        let mut meters = BTreeMap::new();
        let totals = match known {
            Some(totals) => totals,
            None => {
                let mut totals = Totals::new(question.level, question.rule);
                for window in gathered.windows() {
                    let (nodes, sites) = gathered.energy_slot(window, question.trust)?;
                    if !nodes.is_empty() {
                        layer::Nodes { window, nodes: &nodes, sites: &sites }.add_to(&mut meters);
                        totals.add_energy(&nodes);
                    }
                }
                totals
            }
        };
        let (pues, impacts) = Default::default();
        Ok(Computed { gathered, factors, totals, meters, pues, impacts })
    }

    /// Energy with its factors: where no consumers are asked for from sums.
    fn compute_sci(&self, question: &Question) -> Result<Computed<'_>, QueryError> {
        let Some(sums) = self.sums.as_ref().filter(|_| question.entity.is_none()) else {
            return self.compute(question);
        };
        let factors = Arc::clone(&self.factors.borrow());
        let labels = Arc::clone(&self.directories.borrow());
        let begin = self.book.version();
        let present = self.present(&labels);
        let gathered = Gathered::new(&self.book, &factors, question.window, question.factors, present)?;
        let Some(rated) = sums.rated(&gathered, question, (&self.book, begin))? else {
            return add_up(gathered, factors, question, &mut |_, _| Ok(()));
        };
        let Rated { totals, impacts, pues } = rated;
        Ok(Computed { gathered, factors, totals, meters: BTreeMap::new(), pues, impacts })
    }

    /// Energy with its factors slot by slot.
    fn compute(&self, question: &Question) -> Result<Computed<'_>, QueryError> {
        self.compute_each(question, &mut |_, _| Ok(()))
    }

    /// The same; each slot is shown to `visit` with its versions' terms.
    fn compute_each(&self, question: &Question, visit: Visit<'_>) -> Result<Computed<'_>, QueryError> {
        let factors = Arc::clone(&self.factors.borrow());
        let labels = Arc::clone(&self.directories.borrow());
        let gathered = Gathered::new(&self.book, &factors, question.window, question.factors, self.present(&labels))?;
        add_up(gathered, factors, question, visit)
    }
}

/// Sees a slot and the terms of each version in it.
type Visit<'v> = &'v mut dyn FnMut(&gather::Slot, &BTreeMap<ModelVersion, Vec<SlotTerm>>) -> Result<(), QueryError>;

fn add_up<'a>(
    gathered: Gathered<'a>,
    factors: Arc<Factors>,
    question: &Question,
    visit: Visit<'_>,
) -> Result<Computed<'a>, QueryError> {
    let mut rated = Rated::new(question);
    let mut meters = BTreeMap::new();
    for window in gathered.windows() {
        let slot = gathered.slot(window, question.trust)?;
        if slot.nodes.is_empty() {
            continue;
        }
        layer::Nodes { window, nodes: &slot.nodes, sites: &slot.sites }.add_to(&mut meters);
        visit(&slot, &rated.add(&slot, question.level))?;
    }
    let Rated { totals, impacts, pues } = rated;
    Ok(Computed { gathered, factors, totals, meters, pues, impacts })
}

fn turns(memory: Memory) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(memory.questions()))
}

/// Answers over gRPC, beside the runtime: questions read the store and compute.
pub struct Answering(Arc<Query>);

impl Answering {
    async fn ask<Q, A>(
        &self,
        (kind, request): (&'static str, Request<Q>),
        answer: fn(&Query, &Q) -> Result<A, QueryError>,
    ) -> Result<Response<A>, Status>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let query = Arc::clone(&self.0);
        let question = request.into_inner();
        let failed = || Status::internal("answering failed; see the aggregator's log");
        // Who gives up waiting gives up its place.
        let turn = Arc::clone(&query.turns).acquire_owned().await.map_err(|_| failed())?;
        let answered = tokio::task::spawn_blocking(move || {
            let span = tracing::info_span!("query", kind, error = tracing::field::Empty).entered();
            answer(&query, &question)
                .inspect_err(|error| {
                    span.record("error", tracing::field::display(error));
                })
                .map(|answer| (answer, turn))
        })
        .await;
        let (answered, _turn) = answered.map_err(|_| failed())??;
        Ok(Response::new(answered))
    }
}

#[tonic::async_trait]
impl QueryService for Answering {
    async fn get_sci(&self, request: Request<GetSciRequest>) -> Result<Response<GetSciResponse>, Status> {
        self.ask(("sci", request), Query::sci).await
    }

    async fn get_energy(&self, request: Request<GetEnergyRequest>) -> Result<Response<GetEnergyResponse>, Status> {
        self.ask(("energy", request), Query::energy).await
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        self.ask(("explain", request), Query::explain).await
    }

    async fn get_alias_history(
        &self,
        request: Request<GetAliasHistoryRequest>,
    ) -> Result<Response<GetAliasHistoryResponse>, Status> {
        self.ask(("alias_history", request), Query::alias_history).await
    }

    async fn get_idle(&self, request: Request<GetIdleRequest>) -> Result<Response<GetIdleResponse>, Status> {
        self.ask(("idle", request), Query::idle).await
    }
}

/// A window as RFC 3339 UTC.
pub(crate) fn rfc3339(at: joulebook_units::UnixNanos) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.0)).map_or_else(|_| String::new(), |time| time.to_string())
}

/// Seconds of a window.
#[allow(clippy::cast_precision_loss, reason = "a derived value")]
fn seconds(window: Window) -> f64 {
    window.nanos() as f64 / 1e9
}
