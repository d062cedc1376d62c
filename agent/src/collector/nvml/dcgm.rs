//! Activity of instances from a page of NVIDIA's dcgm-exporter, for GPUs that can be divided and do not tell it themselves
//! (A30, A100). Runs in the helper process only.
//!
//! Only `DCGM_FI_PROF_GR_ENGINE_ACTIVE` is taken, a gauge from 0 to 1: which part of the time an instance was active. The
//! page's energy and power are never read: they are the counters that the library shows, one interval late.

use super::library::now;
use crate::inference::exposition::Page;
use crate::inference::fetch::Connection;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const ACTIVE: &str = "DCGM_FI_PROF_GR_ENGINE_ACTIVE";
/// The exporter collects every 30 s unless it is told otherwise.
const EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(4);
/// What is older than this tells nothing about now.
const STALE_NANOS: u64 = 90_000_000_000;
const MOST_BYTES: usize = 4 << 20;

/// An instance: UUID of its GPU, and its number there.
type Instance = (String, u32);

/// The newest page, read by a thread of its own.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    newest: Arc<Mutex<(u64, HashMap<Instance, u32>)>>,
}

impl Pages {
    /// Reads the page at `http://HOST:PORT/PATH` again and again, for as long as the process lives.
    ///
    /// # Errors
    /// A URL of another form, or a thread that cannot be had, in words.
    pub fn read(url: &str) -> Result<Self, String> {
        let (host, port, path) =
            parts(url).ok_or_else(|| format!("{url:?} is not of the form http://HOST:PORT/PATH"))?;
        let pages = Self::default();
        let shared = Arc::clone(&pages.newest);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("reading {url} failed: {error}"))?;
        let read = move || {
            runtime.block_on(async {
                let mut every = tokio::time::interval(EVERY);
                loop {
                    every.tick().await;
                    let page = tokio::time::timeout(PATIENCE, async {
                        Connection::open(&host, port).await?.get(&path, MOST_BYTES).await
                    });
                    // A page that cannot be read leaves the one before, until that is stale.
                    if let Ok(Ok(page)) = page.await
                        && let Some(active) = active(&page)
                    {
                        *shared.lock().unwrap_or_else(PoisonError::into_inner) = (now(), active);
                    }
                }
            });
        };
        let thread = std::thread::Builder::new().name("dcgm-page".to_owned()).stack_size(512 * 1024);
        thread.spawn(read).map_err(|error| format!("reading {url} failed: {error}"))?;
        Ok(pages)
    }

    /// Part of the time in which an instance is active, in millionths; `None` where no fresh page tells it.
    pub fn of(&self, uuid: &str, instance: u32) -> Option<u32> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = newest.0 > 0 && now().saturating_sub(newest.0) <= STALE_NANOS;
        fresh.then(|| newest.1.get(&(uuid.to_owned(), instance)).copied()).flatten()
    }
}

/// Host, port and path of a plain URL.
pub fn parts(url: &str) -> Option<(String, u16, String)> {
    let rest = url.strip_prefix("http://")?;
    let (address, path) = rest.find('/').map_or((rest, "/metrics"), |at| rest.split_at(at));
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some(())?;
    Some((host.to_owned(), port.parse().ok()?, path.to_owned()))
}

/// Activity of every instance on a page in millionths; `None` if it is no page.
fn active(bytes: &[u8]) -> Option<HashMap<Instance, u32>> {
    let page = Page::parse(bytes).ok()?;
    let of_instances = page.samples().iter().filter(|sample| sample.name == ACTIVE);
    let found = of_instances.filter_map(|sample| {
        let instance = sample.label("GPU_I_ID").parse().ok()?;
        let share = (0.0..=1.0).contains(&sample.value).then_some(sample.value)?;
        // Within 0 and 10⁶.
        Some(((sample.label("UUID").to_owned(), instance), (share * 1e6).round() as u32))
    });
    Some(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_activity_of_instances_is_taken() {
        let page = b"# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge\n\
            DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",UUID=\"GPU-a\",GPU_I_PROFILE=\"3g.20gb\",GPU_I_ID=\"1\"} 0.25\n\
            DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",UUID=\"GPU-a\",GPU_I_PROFILE=\"1g.5gb\",GPU_I_ID=\"9\"} 1.5\n\
            DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"1\",UUID=\"GPU-b\"} 0.5\n\
            # TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n\
            DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu=\"0\",UUID=\"GPU-a\"} 7\n";
        let found = active(page).expect("a page");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(("GPU-a".to_owned(), 1), 250_000)]);
        assert_eq!(active(b"not a page\x00"), None);
    }

    #[test]
    fn urls_of_the_plain_form_are_taken_apart() {
        let is =
            |url, host: &str, port, path: &str| assert_eq!(parts(url), Some((host.to_owned(), port, path.to_owned())));
        is("http://127.0.0.1:9400/metrics", "127.0.0.1", 9400, "/metrics");
        is("http://[::1]:9400", "::1", 9400, "/metrics");
        for other in ["https://a:1/", "http://a/metrics", "http://:9400/", "a:9400", "http://a:x/"] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
