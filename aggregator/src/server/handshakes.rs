//! Handshakes under way, by the address they come from: one address can hold only a part of all places, and its newest
//! peers push its oldest out. So silent peers neither keep others waiting nor those behind the same address.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Whose handshake it is: a whole /64 of IPv6 belongs to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// Handshakes of an address in the order in which they began.
type Queue = VecDeque<Arc<Notify>>;

/// All of them.
#[derive(Debug)]
pub(super) struct Handshakes {
    per_address: usize,
    queues: Mutex<BTreeMap<Origin, Queue>>,
}

/// One handshake's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    origin: Origin,
    over: Arc<Notify>,
    all: Arc<Handshakes>,
}

impl Handshakes {
    /// None under way.
    pub fn new(per_address: usize) -> Self {
        Self { per_address, queues: Mutex::default() }
    }

    /// A place for a handshake with an address; the oldest one with it ends if there are too many.
    pub fn begin(self: Arc<Self>, address: IpAddr) -> Turn {
        let (origin, over) = (Origin::from(address), Arc::new(Notify::new()));
        let mut queues = self.lock();
        let queue = queues.entry(origin).or_default();
        queue.push_back(Arc::clone(&over));
        if queue.len() > self.per_address
            && let Some(oldest) = queue.pop_front()
        {
            oldest.notify_one();
        }
        drop(queues);
        Turn { origin, over, all: self }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Origin, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Completes when it has to give way.
    pub async fn over(&self) {
        self.over.notified().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.all.lock();
        if let Some(queue) = queues.get_mut(&self.origin) {
            queue.retain(|one| !Arc::ptr_eq(one, &self.over));
            if queue.is_empty() {
                queues.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn is_over(turn: &Turn) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(turn.over()).poll(&mut context).is_ready()
    }

    #[test]
    fn the_oldest_of_an_address_gives_way_and_others_stay() {
        let all = Arc::new(Handshakes::new(2));
        let begin = |host| Arc::clone(&all).begin(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
        let (other, first, second) = (begin(2), begin(1), begin(1));
        assert!(!is_over(&first) && !is_over(&second));
        let third = begin(1);
        assert!(is_over(&first) && !is_over(&second) && !is_over(&third) && !is_over(&other));
        drop(second);
        let fourth = begin(1);
        assert!(!is_over(&third) && !is_over(&fourth), "a place was given back");
        drop((first, third, fourth, other));
        assert!(all.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_mapped_ipv4_is_ipv4() {
        let v6 = |last| Origin::from(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last)));
        assert_eq!(v6(1), v6(2));
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        assert_eq!(Origin::from(mapped), Origin::from(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
