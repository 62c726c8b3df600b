//! The places for connections, and who has to leave when there is none for another.
//!
//! A stranger is a client that may do nothing: it has no usable certificate, is in no policy, or has not finished its
//! handshake. Strangers never hold all places. The stranger that has been idle longest makes room for the next one, so
//! that every new client can show who it is. Known clients do not hold all places either. If there are too many, a
//! connection of the identity with most connections ends, so that no identity keeps another one out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kms_core::Identity;
use tokio::sync::Notify;

use crate::access::policy::AccessRules;
use crate::conn::watch::{Stop, Watch};

/// The most connections beyond the limit that were told to end and have not ended.
const MAX_LEAVING: usize = 32;

/// The most strangers that are checked to find an idle one.
const MAX_LOOKS: usize = 64;

/// A younger connection is not called idle, because it may be in its handshake.
const YOUNG: Duration = Duration::from_secs(1);

/// The places for connections, up to a limit.
pub struct Slots {
    limits: Limits,
    table: Mutex<Table>,
    freed: Notify,
}

#[derive(Clone, Copy)]
struct Limits {
    all: usize,
    /// The most strangers among them.
    strangers: usize,
    /// The most strangers of one address among these.
    of_one_address: usize,
    /// The most known clients. The rest is for clients that have yet to show who they are.
    known: usize,
}

#[derive(Default)]
struct Table {
    live: HashMap<u64, Slot>,
    next: u64,
    next_turn: u64,
    leaving: usize,
    /// The most connections since the last time that somebody asked.
    most: usize,
    /// The strangers, in the order in which they are checked.
    strangers: BTreeMap<u64, u64>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    known: usize,
    by_identity: HashMap<Identity, usize>,
}

/// One connection.
struct Slot {
    watch: Arc<Watch>,
    address: IpAddr,
    peer: Option<Identity>,
    /// Whether it has few streams because it was made for a stranger.
    is_narrow: bool,
    class: Class,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Known,
    /// The place in the order of checks, and the number of requests at the last check.
    Stranger {
        turn: u64,
        served: u32,
    },
    /// It was told to make room.
    Leaving,
}

impl Slots {
    /// Creates `limit` places.
    pub fn new(limit: usize) -> Self {
        let strangers = (limit / 4 * 3).max(limit.min(2));
        // Small limits occur in tests and on machines with few descriptors. There, one address may be all there is.
        let of_one_address = (strangers / 2).max(strangers.min(16));
        let (all, known) = (limit.max(1), limit.max(1) - limit / 16);
        let limits = Limits { all, strangers: strangers.max(1), of_one_address, known };
        Self { limits, table: Mutex::default(), freed: Notify::new() }
    }

    /// Waits until another connection can get a place.
    pub async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.table().has_room(self.limits) {
                return;
            }
            freed.await;
        }
    }

    /// Gives a place to a connection from `address`. Returns its number, and whether another connection has to end for it.
    ///
    /// Returns `None` while there is no [room](Self::room).
    pub fn take(&self, address: IpAddr, watch: &Arc<Watch>) -> Option<(u64, bool)> {
        let address = network(address);
        let mut table = self.table();
        let of_address = table.by_address.get(&address).map_or(0, BTreeSet::len);
        let evicts = if of_address >= self.limits.of_one_address {
            table.evict(Some(address))
        } else if table.strangers.len() >= self.limits.strangers || table.present() >= self.limits.all {
            table.evict(None)
        } else {
            false
        };
        if table.present() >= self.limits.all {
            return None;
        }
        let number = table.next;
        table.next += 1;
        let class = table.queue(number, address, 0);
        let slot = Slot { watch: Arc::clone(watch), address, peer: None, is_narrow: false, class };
        table.live.insert(number, slot);
        table.most = table.most.max(table.live.len());
        Some((number, evicts))
    }

    /// Notes the identity of a client after its handshake. Returns whether `access` knows it.
    pub fn identify(
        &self,
        number: u64,
        peer: Option<Identity>,
        is_http2: bool,
        access: &AccessRules,
    ) -> bool {
        let is_known = peer.is_some_and(|peer| access.knows(&peer));
        let mut table = self.table();
        if let Some(slot) = table.live.get_mut(&number) {
            (slot.peer, slot.is_narrow) = (peer, is_http2 && !is_known);
        }
        if is_known {
            table.set_known(number);
            if table.known > self.limits.known {
                table.evict_known();
            }
        }
        drop(table);
        if is_known {
            // This may have made room for strangers.
            self.freed.notify_waiters();
        }
        is_known
    }

    /// Finds out again who is a stranger, by other rules.
    ///
    /// If an HTTP/2 connection was made for a stranger who is now known, it ends after its requests. The next connection
    /// gets more streams.
    pub fn look_again(&self, access: &AccessRules) {
        let mut table = self.table();
        let numbers: Vec<_> = table.live.keys().copied().collect();
        for number in numbers {
            let Some(slot) = table.live.get(&number) else { continue };
            let is_known = slot.peer.is_some_and(|peer| access.knows(&peer));
            match slot.class {
                Class::Stranger { .. } if is_known => {
                    if slot.is_narrow {
                        slot.watch.tell(Stop::WhenIdle);
                    }
                    table.set_known(number);
                }
                Class::Known if !is_known => {
                    let (address, served) = (slot.address, slot.watch.served());
                    table.unset_known(number);
                    let class = table.queue(number, address, served);
                    if let Some(slot) = table.live.get_mut(&number) {
                        slot.class = class;
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives back the place of a connection.
    pub fn give_back(&self, number: u64) {
        let mut table = self.table();
        table.unset_known(number);
        if let Some(slot) = table.live.remove(&number) {
            match slot.class {
                Class::Known => {}
                Class::Stranger { turn, .. } => table.unqueue(slot.address, turn),
                Class::Leaving => table.leaving -= 1,
            }
        }
        if table.live.is_empty() {
            // This frees the memory that a wave of connections took.
            let Table { next, next_turn, most, .. } = *table;
            *table = Table { next, next_turn, most, ..Table::default() };
        }
        drop(table);
        self.freed.notify_waiters();
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.table().live.len()
    }

    /// Returns the number of connections, and the largest number since the last call.
    pub fn len_and_most(&self) -> (usize, usize) {
        let mut table = self.table();
        let len = table.live.len();
        (len, std::mem::replace(&mut table.most, len))
    }

    /// Waits until there is no connection.
    pub async fn all_ended(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.len() == 0 {
                return;
            }
            freed.await;
        }
    }

    /// Tells all connections to end.
    pub fn tell(&self, stop: Stop) {
        for slot in self.table().live.values() {
            slot.watch.tell(stop);
        }
    }

    /// Returns the notes of all connections.
    pub fn watches(&self) -> Vec<Arc<Watch>> {
        self.table().live.values().map(|slot| Arc::clone(&slot.watch)).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Returns the number of connections that were not told to make room.
    fn present(&self) -> usize {
        self.live.len() - self.leaving
    }

    fn has_room(&self, limits: Limits) -> bool {
        self.leaving < MAX_LEAVING && (self.present() < limits.all || !self.strangers.is_empty())
    }

    /// Ends the connection of the stranger that has been idle longest, of one address or of all.
    ///
    /// Returns false if there is none.
    ///
    /// A stranger that is busy, or has made a request since its last check, goes back to the end of the order. If all
    /// checked strangers do, the first of them has to leave.
    fn evict(&mut self, address: Option<IpAddr>) -> bool {
        let mut first = None;
        for _ in 0..MAX_LOOKS {
            let Some((turn, number)) = self.first(address) else { return false };
            if first == Some(number) {
                break;
            }
            first = first.or(Some(number));
            let Some(slot) = self.live.get(&number) else { return false };
            let (address, now) = (slot.address, slot.watch.served());
            let last = if let Class::Stranger { served, .. } = slot.class { served } else { now };
            if slot.watch.is_idle() && now == last && slot.watch.age() > YOUNG {
                first = Some(number);
                break;
            }
            self.unqueue(address, turn);
            let class = self.queue(number, address, now);
            if let Some(slot) = self.live.get_mut(&number) {
                slot.class = class;
            }
        }
        let Some(slot) = first.and_then(|number| self.live.get_mut(&number)) else { return false };
        let Class::Stranger { turn, .. } = slot.class else { return false };
        slot.class = Class::Leaving;
        slot.watch.tell(Stop::Now);
        let address = slot.address;
        self.leaving += 1;
        self.unqueue(address, turn);
        true
    }

    /// Returns the stranger that is to be checked next.
    fn first(&self, address: Option<IpAddr>) -> Option<(u64, u64)> {
        let turn = match address {
            Some(address) => *self.by_address.get(&address)?.first()?,
            None => *self.strangers.first_key_value()?.0,
        };
        Some((turn, *self.strangers.get(&turn)?))
    }

    fn set_known(&mut self, number: u64) {
        let Some(slot) = self.live.get_mut(&number) else { return };
        if let Class::Stranger { turn, .. } = slot.class {
            slot.class = Class::Known;
            let (address, peer) = (slot.address, slot.peer);
            self.unqueue(address, turn);
            self.known += 1;
            if let Some(peer) = peer {
                *self.by_identity.entry(peer).or_default() += 1;
            }
        }
    }

    /// Removes a known client's connection from the counts of its identity.
    fn unset_known(&mut self, number: u64) {
        let Some(slot) = self.live.get(&number).filter(|slot| slot.class == Class::Known) else { return };
        self.known -= 1;
        if let Some(peer) = slot.peer
            && let Some(count) = self.by_identity.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                self.by_identity.remove(&peer);
            }
        }
    }

    /// Ends a connection of the identity with most connections: its oldest idle one, or else its oldest.
    fn evict_known(&mut self) {
        let most = self.by_identity.iter().max_by_key(|(_, count)| **count).map(|(peer, _)| *peer);
        let of_most = self.live.iter().filter(|(_, slot)| slot.class == Class::Known && slot.peer == most);
        let first = of_most.min_by_key(|(number, slot)| (!slot.watch.is_idle(), **number));
        let Some(number) = first.map(|(number, _)| *number) else { return };
        self.unset_known(number);
        if let Some(slot) = self.live.get_mut(&number) {
            slot.class = Class::Leaving;
            slot.watch.tell(Stop::Now);
            self.leaving += 1;
        }
    }

    fn queue(&mut self, number: u64, address: IpAddr, served: u32) -> Class {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.strangers.insert(turn, number);
        self.by_address.entry(address).or_default().insert(turn);
        Class::Stranger { turn, served }
    }

    fn unqueue(&mut self, address: IpAddr, turn: u64) {
        self.strangers.remove(&turn);
        if let Some(turns) = self.by_address.get_mut(&address) {
            turns.remove(&turn);
            if turns.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

/// Returns the network that one holder of addresses has: an IPv4 address, or 64 bits of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(known: Identity) -> AccessRules {
        AccessRules::new(Some(known), &BTreeMap::default()).unwrap()
    }

    fn take(slots: &Slots, last: u8) -> (u64, Arc<Watch>) {
        let watch = Arc::new(Watch::new());
        let (number, _) = slots.take(IpAddr::from([10, 0, 0, last]), &watch).expect("there is room");
        (number, watch)
    }

    fn is_told(watch: &Watch) -> bool {
        watch.told(std::task::Waker::noop()).is_some()
    }

    #[test]
    fn strangers_make_room_for_each_other_and_the_known_stay() {
        let slots = Slots::new(8);
        let someone = Identity::of_public_key(b"someone");
        let known: Vec<_> = (0..4).map(|_| take(&slots, 1)).collect();
        for (number, _) in &known {
            assert!(slots.identify(*number, Some(someone), true, &access(someone)));
        }
        let strangers: Vec<_> = (0..40).map(|number| take(&slots, number)).collect();
        assert!(known.iter().all(|(_, watch)| !is_told(watch)));
        assert_eq!(strangers.iter().filter(|(_, watch)| !is_told(watch)).count(), 4);
        assert!(is_told(&strangers[0].1) && !is_told(&strangers[39].1), "the oldest goes");
    }

    #[test]
    fn one_address_has_a_part_of_the_room_for_strangers() {
        let slots = Slots::new(100);
        let other = take(&slots, 2);
        let flood: Vec<_> = (0..60).map(|_| take(&slots, 1)).collect();
        assert_eq!(flood.iter().filter(|(_, watch)| !is_told(watch)).count(), 37);
        assert!(!is_told(&other.1));
    }

    #[test]
    fn no_room_is_left_when_the_known_hold_all() {
        let slots = Slots::new(2);
        let someone = Identity::of_public_key(b"someone");
        for _ in 0..2 {
            let (number, _) = take(&slots, 1);
            slots.identify(number, Some(someone), false, &access(someone));
        }
        let watch = Arc::new(Watch::new());
        assert!(slots.take(IpAddr::from([10, 0, 0, 1]), &watch).is_none());
        slots.give_back(0);
        assert!(slots.take(IpAddr::from([10, 0, 0, 1]), &watch).is_some());
    }

    #[test]
    fn no_identity_keeps_another_one_out() {
        let slots = Slots::new(32);
        let [hog, other] = [b"hog", b"oth"].map(|key| Identity::of_public_key(key));
        let policies = BTreeMap::from([(
            "hog".to_owned(),
            crate::settings::PolicySettings { identities: vec![hog], ..Default::default() },
        )]);
        let access = AccessRules::new(Some(other), &policies).unwrap();
        let come = |peer| {
            let (number, watch) = take(&slots, 1);
            assert!(slots.identify(number, Some(peer), false, &access));
            watch
        };
        let mine = come(other);
        let hogs: Vec<_> = (0..60).map(|_| come(hog)).collect();
        let more: Vec<_> = (0..10).map(|_| come(other)).collect();
        assert!(!is_told(&mine) && more.iter().all(|watch| !is_told(watch)), "it holds less");
        assert_eq!(hogs.iter().filter(|watch| !is_told(watch)).count(), 30 - 11);
        assert!(is_told(&hogs[0]) && !is_told(&hogs[59]), "the oldest go");
        let table = slots.table();
        assert_eq!((table.known, table.by_identity[&hog], table.by_identity[&other]), (30, 19, 11));
    }

    #[test]
    fn other_rules_make_other_strangers() {
        let slots = Slots::new(8);
        let [first, second] = [b"first", b"secnd"].map(|key| Identity::of_public_key(key));
        let numbers: Vec<_> = [first, second]
            .map(|peer| {
                let (number, watch) = take(&slots, 1);
                slots.identify(number, Some(peer), true, &access(first));
                (number, watch)
            })
            .into();
        slots.look_again(&access(second));
        assert!(!is_told(&numbers[0].1) && is_told(&numbers[1].1), "it gets a connection with more streams");
        assert_eq!(slots.table().strangers.len(), 1);
        slots.give_back(numbers[0].0);
        assert_eq!(slots.table().strangers.len(), 0);
    }

    #[test]
    fn addresses_count_by_who_holds_them() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::4"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
