//! Backups and looks at everything stored: work of minutes, told step by step so that whoever asked knows it goes on.

use crate::store::rocks::RocksStore;
use crate::store::rocks::backup::{self, Backup};
use crate::store::rocks::check::{Checked, Progress};
use crate::store::{Book, StoreError};
use joulebook_proto::admin::{self as wire, BackupInfo, BackupResponse, Findings, VerifyResponse};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
const AHEAD: usize = 4;

/// What backups are made of, and where.
#[derive(Clone)]
pub(super) struct Care {
    store: Arc<RocksStore>,
    folder: Option<PathBuf>,
    /// Held while a backup is made: the folder has one writer.
    busy: Arc<Mutex<()>>,
}

/// Answers of a call that takes its time.
pub(super) type Steps<T> = ReceiverStream<Result<T, Status>>;

impl Care {
    pub(super) fn new(store: Arc<RocksStore>, folder: Option<PathBuf>) -> Self {
        Self { store, folder, busy: Arc::default() }
    }

    fn folder(&self) -> Result<&Path, Status> {
        let unset = || Status::failed_precondition("no folder of backups is configured: set backup_dir");
        self.folder.as_deref().ok_or_else(unset)
    }

    pub(super) fn back_up(&self, book: &Book, keep: Option<u32>) -> Result<Steps<BackupResponse>, Status> {
        let (folder, store, cluster) = (self.folder()?.to_owned(), Arc::clone(&self.store), book.cluster());
        if keep == Some(0) {
            return Err(Status::invalid_argument("keep must be at least 1"));
        }
        let busy = Arc::clone(&self.busy);
        let work = move |progress: &Progress<'_>| {
            let _one = only(&busy)?;
            store.back_up(&folder, cluster, keep, progress).map_err(|error| status(&error))
        };
        let step = |step| BackupResponse { step: Some(step) };
        Ok(steps(
            work,
            move |progress| step(wire::backup_response::Step::Progress(progress)),
            move |done| step(wire::backup_response::Step::Done(info(&done))),
        ))
    }

    pub(super) fn list(&self) -> Result<Vec<BackupInfo>, Status> {
        let backups = backup::list(self.folder()?).map_err(|error| status(&error))?;
        Ok(backups.iter().map(info).collect())
    }

    pub(super) fn verify(&self, number: Option<u32>) -> Result<Steps<VerifyResponse>, Status> {
        let folder = match number {
            Some(_) => self.folder()?.to_owned(),
            None => PathBuf::new(),
        };
        let (store, busy) = (Arc::clone(&self.store), Arc::clone(&self.busy));
        let work = move |progress: &Progress<'_>| {
            let checked = match number {
                Some(number) => {
                    // A backup that is being made may drop older ones.
                    let _one = only(&busy)?;
                    backup::verify(&folder, number, progress)
                }
                None => store.check(progress),
            };
            checked.map_err(|error| status(&error))
        };
        let step = |step| VerifyResponse { step: Some(step) };
        Ok(steps(
            work,
            move |progress| step(wire::verify_response::Step::Progress(progress)),
            move |done| step(wire::verify_response::Step::Done(findings(done))),
        ))
    }
}

fn only(busy: &Mutex<()>) -> Result<MutexGuard<'_, ()>, Status> {
    match busy.try_lock() {
        Ok(only) => Ok(only),
        Err(TryLockError::Poisoned(only)) => Ok(only.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Status::resource_exhausted("another backup is being made or verified")),
    }
}

/// Does work on a thread of its own; tells its progress each second and its end. It stops when nobody listens any more.
fn steps<D: Send + 'static, T: Send + 'static>(
    work: impl FnOnce(&Progress<'_>) -> Result<D, Status> + Send + 'static,
    progress: impl Fn(wire::Progress) -> T + Send + 'static,
    done: impl FnOnce(D) -> T + Send + 'static,
) -> Steps<T> {
    let (out, answers) = mpsc::channel(AHEAD);
    let read = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let (counted, listener) = (Arc::clone(&read), out.clone());
    let working = tokio::task::spawn_blocking(move || {
        work(&|done, total| {
            counted.0.store(done, Ordering::Relaxed);
            counted.1.store(total, Ordering::Relaxed);
            if listener.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    tokio::spawn(async move {
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(working);
        let ended = loop {
            tokio::select! {
                ended = &mut working => break ended,
                _ = ticks.tick() => {}
            }
            let (done_bytes, total_bytes) = (read.0.load(Ordering::Relaxed), read.1.load(Ordering::Relaxed));
            // Nobody listens: the work notices it as well.
            let _gone = out.send(Ok(progress(wire::Progress { done_bytes, total_bytes }))).await;
        };
        let ended = ended.unwrap_or_else(|_| Err(Status::internal("the work failed; see the aggregator's log")));
        let _gone = out.send(ended.map(done)).await;
    });
    ReceiverStream::new(answers)
}

fn info(backup: &Backup) -> BackupInfo {
    BackupInfo { number: backup.number, made_unix_nanos: backup.made.0, files: backup.files, bytes: backup.bytes }
}

fn findings(checked: Checked) -> Findings {
    let damages = checked.damages.into_iter().map(|damage| wire::Damage { file: damage.file, reason: damage.reason });
    Findings { files: checked.files, bytes: checked.bytes, damages: damages.collect() }
}

fn status(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Damaged { .. } => Status::data_loss(text),
        StoreError::Full { .. } => Status::resource_exhausted(text),
        StoreError::Io { .. } | StoreError::Latched { .. } => Status::internal(text),
        _ => Status::failed_precondition(text),
    }
}
