//! One stream of rows on its way: sampled at every tick, written to the spool, sent, until the agent is told to end.

use super::{Ending, RunError};
use crate::inference::Scraper;
use crate::metrics::{Asked, Cycles, Sampled};
use crate::sampler::{Flush, Sampler};
use crate::span;
use crate::spool::{SpoolError, SpoolHandle};
use crate::uplink::{Uplink, UplinkError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{Instrument, Span};

/// Batches that may wait for the disk before rows wait too.
const WAITING_BATCHES: usize = 16;
/// Longest time for the last scrape.
const LAST_SCRAPE: Duration = Duration::from_secs(6);
/// Least time between two rows out of turn.
const BETWEEN_EDGES: Duration = Duration::from_millis(50);
/// Readings that are behind their row are there after this.
const LATE: Duration = Duration::from_millis(100);
/// How often a full disk is tried again when no batch comes.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What one stream of rows is made of.
pub(crate) struct Delivery {
    /// Makes the rows.
    pub(crate) sampler: Sampler,
    /// Keeps them.
    pub(crate) spool: SpoolHandle,
    /// Sends them.
    pub(crate) uplink: Uplink,
    /// Time between two rows.
    pub(crate) tick: Duration,
    /// Scrapes once more before the last row; none where nothing is scraped.
    pub(crate) scraper: Option<Scraper>,
    /// Asks for rows out of turn: the edges of spans.
    pub(crate) spans: mpsc::Receiver<span::Request>,
    /// Asks how the sampler is: the page of metrics.
    pub(crate) asked: mpsc::Receiver<Asked>,
}

/// Delivers until `ending` says how, then writes a last row, and sends what it can in 10 s if nothing takes its place.
///
/// # Errors
/// Of the spool or the uplink, for reasons that waiting does not cure.
pub(crate) async fn deliver(delivery: Delivery, ending: impl Future<Output = Ending>) -> Result<(), RunError> {
    let Delivery { sampler, spool, uplink, tick, scraper, spans, asked } = delivery;
    let (stop, stopped) = watch::channel(false);
    let (flushes, to_write) = mpsc::channel(WAITING_BATCHES);
    let wishes = uplink.wishes_for_a_stream();
    let mut uplink = tokio::spawn(uplink.run(stopped));
    let mut writer = tokio::spawn(write(spool.clone(), to_write));

    let sampled = tokio::select! {
        ending = sample(sampler, (tick, spans, asked), scraper, (flushes, wishes), ending) => Ok(ending),
        ended = &mut uplink => Err(ended.map_err(RunError::Ended)?.err().map_or(RunError::Spool(SpoolError::Closed), RunError::Uplink)),
        ended = &mut writer => Err(ended.map_err(RunError::Ended)?.err().map_or(SpoolError::Closed, |error| error).into()),
    };
    let ending = match sampled {
        Ok(ending) => ending,
        Err(error) => {
            // The spool's own error says more than that of the task that met the closed spool.
            let closed = matches!(error, RunError::Uplink(UplinkError::Spool(SpoolError::Closed)));
            if closed && let Ok(Ok(Err(cause))) = timeout(LAST_SCRAPE, &mut writer).await {
                return Err(cause.into());
            }
            return Err(error);
        }
    };
    writer.await.map_err(RunError::Ended)??;
    match ending {
        Ending::Stop => {
            let _ = stop.send(true);
            uplink.await.map_err(RunError::Ended)??;
        }
        // Nothing is measured meanwhile: what is on its way is sent again, and told apart as a replay.
        Ending::Replaced => uplink.abort(),
    }
    spool.close().await?;
    Ok(())
}

/// Rows at every tick until `ending`, then the last scrape and the last row.
async fn sample(
    mut sampler: Sampler,
    (tick, mut spans, mut asked): (Duration, mpsc::Receiver<span::Request>, mpsc::Receiver<Asked>),
    scraper: Option<Scraper>,
    (flushes, mut wishes): (mpsc::Sender<Flush>, watch::Receiver<u64>),
    ending: impl Future<Output = Ending>,
) -> Ending {
    let mut ticks = interval(tick);
    // A late row is simply longer; rows that were missed are not made up.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = std::pin::pin!(ending);
    let mut ready = Some(tick);
    let mut last_edge = None;
    let mut cycles = Cycles::default();
    let ending = loop {
        let mut edges = Vec::new();
        tokio::select! {
            biased;
            ending = &mut ending => break ending,
            _ = ticks.tick() => {}
            Some(who) = asked.recv() => {
                // Whoever asked may have gone.
                let _ = who.send(Sampled { status: sampler.status(), cycles });
                continue;
            }
            Some(edge) = spans.recv(), if ready.is_none() => {
                // Rows out of turn cost like any others: those who ask at one time share one, and the next ones wait.
                if let Some(last) = last_edge {
                    sleep_until(last + BETWEEN_EDGES).await;
                }
                last_edge = Some(Instant::now());
                edges.push(edge);
                edges.extend(std::iter::from_fn(|| spans.try_recv().ok()));
            }
        }
        let begun = Instant::now();
        // The uplink wishes for a new stream: what is old is delivered beside it. Its end is the agent's.
        let wished = wishes.has_changed().unwrap_or(false);
        let last_of_stream = wished.then(|| {
            wishes.mark_unchanged();
            sampler.begin_stream()
        });
        let rows = sampler.tick();
        cycles.count(begun, tick);
        send(&flushes, last_of_stream.flatten().into_iter().chain(rows)).await;
        let mut shown = sampler.snapshot();
        if let Some(shown) = shown.as_mut().filter(|shown| !edges.is_empty() && shown.is_late()) {
            // What was asked for with this row stands in the next one.
            sleep(LATE).await;
            send(&flushes, sampler.tick().into_iter()).await;
            sampler.snapshot().into_iter().for_each(|next| shown.complete(next));
        }
        for edge in edges {
            // Whoever asked may have gone; before the first row there is nothing to say.
            let _ = shown.clone().map(|shown| edge.send(shown));
        }
        // Said once the first row exists: what starts from now on is seen from its start.
        if let Some(tick) = ready.take() {
            tracing::info!("sampling every {}", humantime::format_duration(tick));
        }
    };
    if let Some(scraper) = scraper
        && timeout(LAST_SCRAPE, scraper.scrape_now()).await.is_err()
    {
        tracing::warn!("the last scrape took too long: counts since the scrape before are left out");
    }
    for flush in sampler.finish() {
        let _ = flushes.send(flush).await;
    }
    // Sources may take seconds to end (a session at a BMC): the rest goes on meanwhile. It is waited for with the runtime.
    tokio::task::spawn_blocking(move || drop(sampler));
    ending
}

/// Hands rows to the writer; if it has ended with an error, its caller reports that.
async fn send(flushes: &mpsc::Sender<Flush>, rows: impl Iterator<Item = Flush>) {
    for flush in rows {
        if flushes.send(flush).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The span of a batch on its way to the disk.
fn appending() -> Span {
    tracing::info_span!("spool.append")
}

/// Appends batches in order. While the disk is full they wait in the spool's memory, and the disk is tried again.
async fn write(spool: SpoolHandle, mut flushes: mpsc::Receiver<Flush>) -> Result<(), SpoolError> {
    let mut waits = false;
    loop {
        let written = tokio::select! {
            flush = flushes.recv() => match flush {
                Some(Flush { batch, local, new_series, begins_stream: false }) => {
                    spool.append(batch, local, new_series).instrument(appending()).await.map(drop)
                }
                Some(Flush { batch, local, new_series, begins_stream: true }) => {
                    spool.begin_stream(batch, local, new_series).instrument(appending()).await.map(drop)
                }
                None => return Ok(()),
            },
            () = sleep(TRY_AGAIN), if waits => spool.write_waiting().await,
        };
        waits = match written {
            Ok(()) => {
                if waits {
                    tracing::warn!("the disk takes records again: those that waited in memory are written");
                }
                false
            }
            Err(error @ SpoolError::NoSpace { .. }) => {
                if !waits {
                    tracing::error!(%error, "the disk is full");
                }
                true
            }
            Err(error @ (SpoolError::Refused(_) | SpoolError::TooLarge)) => {
                tracing::error!(%error, "a batch cannot be recorded and is declared lost");
                waits
            }
            Err(error) => return Err(error),
        };
    }
}
