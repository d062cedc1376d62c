//! Parts of a question are made by several threads, a day of them each, and handed over in their order: what is added up is added
//! up as if one thread had made it.

use super::made::Made;
use super::{Asked, Part};
use crate::query::QueryError;
use crate::query::gather::Gathered;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Parts that a thread makes in a row: it reads so many cells ahead that fewer would be read twice.
const DAY_PARTS: usize = 24;

/// Threads that questions may take beside their own.
pub(super) struct Spare(AtomicUsize);

/// Those that one question took; they are given back with it.
struct Taken<'s>(&'s AtomicUsize, usize);

impl Spare {
    pub(super) fn new(threads: usize) -> Self {
        Self(AtomicUsize::new(threads))
    }

    /// As many as are left, and are of use.
    fn take(&self, most: usize) -> Taken<'_> {
        let mut taken = 0;
        // Nothing else is read or written because of it.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = left.min(most);
            left.checked_sub(taken)
        });
        Taken(&self.0, taken)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(self.1, Ordering::Relaxed);
    }
}

/// Makes parts, and gives each to `take` in their order until that is `false`. Whether it never was.
///
/// # Errors
/// That of the first part that cannot be made.
pub(super) fn make(
    asked: &Asked<'_>,
    parts: &[Part],
    spare: &Spare,
    mut take: impl FnMut(Part, Made) -> bool,
) -> Result<bool, QueryError> {
    let how = (asked.question, asked.rates.is_some());
    let days: Vec<&[Part]> = parts.chunks(DAY_PARTS).collect();
    let taken = spare.take(days.len().saturating_sub(1));
    if taken.1 == 0 {
        for part in parts {
            if !take(*part, Made::of(asked.gathered, how, part.window)?) {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let materials: Vec<Gathered<'_>> = (0..=taken.1).map(|_| asked.gathered.beside()).collect();
    let (sender, receiver) = mpsc::sync_channel(DAY_PARTS);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // It goes when this does: who still makes something is not waited for by it.
        let receiver = receiver;
        for gathered in materials {
            let (sender, next, days) = (sender.clone(), &next, &days);
            scope.spawn(move || {
                loop {
                    let day = next.fetch_add(1, Ordering::Relaxed);
                    let Some(parts) = days.get(day) else { return };
                    for (at, part) in parts.iter().enumerate() {
                        let made = Made::of(&gathered, how, part.window);
                        let failed = made.is_err();
                        if sender.send((day * DAY_PARTS + at, made)).is_err() || failed {
                            return;
                        }
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for (place, part) in parts.iter().enumerate() {
            let made = loop {
                match early.remove(&place) {
                    Some(made) => break made,
                    // Days are begun in their order: this fails where a thread panicked, and then the scope does.
                    None => match receiver.recv() {
                        Ok((of, made)) => early.insert(of, made),
                        Err(_) => return Ok(false),
                    },
                };
            };
            if !take(*part, made?) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}
